/* Running a vCPU: the loop around the backend, exits that need no vendor, events on their way into the guest. */
#include "cpufunc.h"
#include "defects.h"
#include "vm.h"
#include "vmm_internal.h"

#define CPUID_LEAF_HYPERVISOR	0x40000000
#define CPUID1_ECX_VMX		(1u << 5)
#define CPUID1_ECX_X2APIC	(1u << 21)
#define CPUID1_ECX_TSCDL	(1u << 24)
#define CPUID1_ECX_HV		(1u << 31)
#define CPUID81_ECX_SVM		(1u << 2)

struct vm_exit *
vm_exitinfo(struct vcpu *vcpu)
{
	return (&vcpu->exitinfo);
}

struct vm *
vcpu_vm(struct vcpu *vcpu)
{
	return (vcpu->vm);
}

int
vcpu_vcpuid(struct vcpu *vcpu)
{
	return (vcpu->vcpuid);
}

struct vlapic *
vm_lapic(struct vcpu *vcpu)
{
	return (vcpu->vlapic);
}

void
vmm_stat_incr(struct vcpu *vcpu, enum vmm_stat stat, uint64_t n)
{
	vcpu->stats[stat] += n;
}

bool
vm_exit_wanted(struct vcpu *vcpu, const struct vm_eventinfo *info, uint64_t rip)
{
	struct vm_exit *vme = &vcpu->exitinfo;

	vme->rip = rip;
	vme->inst_length = 0;
	if (*info->suspend != VM_SUSPEND_NONE) {
		vme->exitcode = VM_EXITCODE_SUSPENDED;
		vme->u.suspended.how = (enum vm_suspend_how)*info->suspend;
		return (true);
	}
	if (vcpu->debugged) {
		vme->exitcode = VM_EXITCODE_DEBUG;
		return (true);
	}
	if (*info->reqidle != 0 || vcpu->parked) {
		vme->exitcode = VM_EXITCODE_REQIDLE;
		vmm_stat_incr(vcpu, VMEXIT_REQIDLE, 1);
		return (true);
	}
	if (curpcpu()->pc_ast) {
		vme->exitcode = VM_EXITCODE_AST;
		vmm_stat_incr(vcpu, VMEXIT_ASTPENDING, 1);
		return (true);
	}
	return (false);
}

void
vm_inject_exception(struct vcpu *vcpu, int vector, bool errcode_valid, uint32_t errcode)
{
	vcpu->exception_pending = true;
	vcpu->exc_vector = (uint8_t)vector;
	vcpu->exc_errcode_valid = errcode_valid;
	vcpu->exc_errcode = errcode;
	/* A fault: the instruction is executed again, after the handler. */
	vcpu->exitinfo.inst_length = 0;
	vcpu->nextrip = vcpu->exitinfo.rip;
}

void
vm_inject_ud(struct vcpu *vcpu)
{
	vm_inject_exception(vcpu, IDT_UD, false, 0);
}

void
vm_inject_gp(struct vcpu *vcpu)
{
	vm_inject_exception(vcpu, IDT_GP, true, 0);
}

void
vm_inject_bp(struct vcpu *vcpu)
{
	uint64_t rip = vcpu->exitinfo.u.bpt.rip;

	vm_inject_exception(vcpu, IDT_BP, false, 0);
	vcpu->nextrip = rip;
}

bool
vm_hwintr_masked(struct vcpu *vcpu)
{
	return (vcpu->mask_hwintr);
}

bool
vm_nmi_pending(struct vcpu *vcpu)
{
	return (vcpu->nmi_pending);
}

void
vm_nmi_clear(struct vcpu *vcpu)
{
	vcpu->nmi_pending = false;
	vmm_stat_incr(vcpu, VCPU_NMI_COUNT, 1);
}

void
vm_exit_intinfo(struct vcpu *vcpu, uint64_t info)
{
	vcpu->exitintinfo = info;
}

bool
vm_entry_intinfo(struct vcpu *vcpu, uint64_t *info)
{
	if ((vcpu->exitintinfo & VM_INTINFO_VALID) != 0) {
		*info = vcpu->exitintinfo;
		vcpu->exitintinfo = 0;
		return (true);
	}
	if (!vcpu->exception_pending)
		return (false);
	vcpu->exception_pending = false;
	*info = VM_INTINFO_VALID | VM_INTINFO_HWEXCEPTION | vcpu->exc_vector;
	if (vcpu->exc_errcode_valid)
		*info |= VM_INTINFO_DEL_ERRCODE | (uint64_t)vcpu->exc_errcode << 32;
	return (true);
}

static void
restore_guest_fpustate(const struct vcpu *vcpu)
{
	__asm__ __volatile__("fxrstor64 (%0)" : : "r"(vcpu->fpu) : "memory");
}

static void
save_guest_fpustate(struct vcpu *vcpu)
{
	__asm__ __volatile__("fxsave64 (%0)" : : "r"(vcpu->fpu) : "memory");
}

/* The backend, with the host's single step on around it where a witness asked for that. */
static int
run_backend(struct vcpu *vcpu)
{
	struct vm_eventinfo info = { &vcpu->vm->suspend, &vcpu->reqidle };
	struct pcpu *pc = curpcpu();
	int error;

	if (!pc->pc_step)
		return (vmm_ops->run(vcpu->cookie, vcpu->nextrip, vcpu->vm->pmap, &info));
	pc->pc_entries++;
	write_rflags(read_rflags() | PSL_T);
	error = vmm_ops->run(vcpu->cookie, vcpu->nextrip, vcpu->vm->pmap, &info);
	if ((read_rflags() & PSL_T) == 0)
		pc->pc_tf_lost++;
	write_rflags(read_rflags() & ~PSL_T);
	return (error);
}

/* All vCPUs wait with interrupts off: nothing would ever happen again. */
static void
all_halted(struct vm *vm)
{
	uint64_t detection = 1;

	(void)tunable_fetch("hw.vmm.halt_detection", &detection);
	if (detection && __atomic_load_n(&vm->halted_cpus, __ATOMIC_SEQ_CST) == vm->active_cpus)
		(void)vm_suspend(vm, VM_SUSPEND_HALT);
}

/* Sleep until there is an interrupt, or somebody wants the vCPU. A halt with interrupts off never ends by itself. */
static void
vm_handle_hlt(struct vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;
	uint32_t me = 1u << vcpu->vcpuid;
	bool interruptible = (vcpu->exitinfo.u.hlt.rflags & PSL_I) != 0;

	if (!interruptible && !vcpu->nmi_pending) {
		__atomic_or_fetch(&vm->halted_cpus, me, __ATOMIC_SEQ_CST);
		all_halted(vm);
	}
	while (vm->suspend == VM_SUSPEND_NONE && !vcpu->reqidle && !vcpu->debugged && !vcpu->parked && !vcpu->nmi_pending &&
	    !(interruptible && vlapic_has_intr(vcpu->vlapic)))
		sched_wait();
	__atomic_and_fetch(&vm->halted_cpus, ~me, __ATOMIC_SEQ_CST);
}

/* True: run on. False: userland must look at the exit. */
static bool
handle_exit(struct vcpu *vcpu, int *error)
{
	bool retu = false;

	switch (vcpu->exitinfo.exitcode) {
	case VM_EXITCODE_AST:
		sched_yield();
		return (true);
	case VM_EXITCODE_PAGING:
		*error = vm_handle_paging(vcpu);
		return (*error == 0);
	case VM_EXITCODE_INST_EMUL:
		*error = vm_emulate_instruction(vcpu, &retu);
		return (*error == 0 && !retu);
	case VM_EXITCODE_HLT:
		vm_handle_hlt(vcpu);
		return (true);
	case VM_EXITCODE_INOUT:
		return (vm_handle_inout(vcpu));
	default:
		return (false);
	}
}

int
vm_run(struct vcpu *vcpu)
{
	int error = 0;

	if (vcpu->parked) {
		vcpu->waiting = true;
		while (vcpu->parked && vcpu->vm->suspend == VM_SUSPEND_NONE)
			sched_wait();
		vcpu->waiting = false;
		/* The end of the VM is told by the backend, to a processor that was never started as well. */
		vcpu->parked = false;
	}
	for (;;) {
		struct pcpu *pc;

		/* Either whoever wants the vCPU sees it running and kicks it, or it sees the wish here. */
		__atomic_store_n(&vcpu->running, true, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(&vcpu->reqidle, __ATOMIC_SEQ_CST) != 0) {
			vcpu->running = false;
			vcpu->idle = true;
			sched_wait();
			vcpu->idle = false;
			continue;
		}
		pc = curpcpu();
		vcpu->hostcpu = pc->pc_cpuid;
		if (!defect(DEFECT_CORE_VMRUN_KEEPS_BASES))
			update_pcb_bases(&curthread()->td_pcb);
		restore_guest_fpustate(vcpu);
		pc->pc_guest_since = rdtsc();
		pc->pc_in_guest = 1;
		error = run_backend(vcpu);
		pc->pc_in_guest = 0;
		save_guest_fpustate(vcpu);
		vcpu->running = false;
		if (error != 0)
			return (error);
		if (vcpu->exitinfo.exitcode == VM_EXITCODE_SUSPENDED &&
		    vcpu->exitinfo.u.suspended.how == VM_SUSPEND_DESTROY)
			return (ENXIO);
		vcpu->nextrip = vcpu->exitinfo.rip + (uint64_t)vcpu->exitinfo.inst_length;
		if (!handle_exit(vcpu, &error)) {
			vmm_stat_incr(vcpu, VMEXIT_USERSPACE, 1);
			return (error);
		}
	}
}

int
vm_suspend(struct vm *vm, enum vm_suspend_how how)
{
	if (vm->suspend == VM_SUSPEND_NONE)
		vm->suspend = how;
	for (int n = 0; n < VM_MAXCPU; n++)
		if (vm->vcpus[n] != NULL)
			vcpu_notify(vm->vcpus[n]);
	return (0);
}

void
vcpu_notify(struct vcpu *vcpu)
{
	int cpu = vcpu->hostcpu;

	if (vcpu->running && cpu >= 0)
		cpu_kick(cpu);
}

void
vcpu_freeze(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->reqidle, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&vcpu->running, __ATOMIC_SEQ_CST)) {
		vcpu_notify(vcpu);
		sched_wait();
	}
}

void
vcpu_thaw(struct vcpu *vcpu)
{
	vcpu->reqidle = 0;
}
