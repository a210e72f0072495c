#include <stdbool.h>
#include <stdint.h>

#include "cpufunc.h"
#include "defects.h"
#include "vmx_defects.h"
#include "vmx_internal.h"

/* Exit qualification of EPT violations (SDM volume 3, table 28-7). */
#define	EPT_VIOLATION_DATA_READ		(1ull << 0)
#define	EPT_VIOLATION_DATA_WRITE	(1ull << 1)
#define	EPT_VIOLATION_INST_FETCH	(1ull << 2)
#define	EPT_VIOLATION_GLA_VALID		(1ull << 7)
#define	EPT_VIOLATION_XLAT_VALID	(1ull << 8)
#define	EXIT_QUAL_NMIUDTI		(1ull << 12)	/* an IRET faulted after it had unblocked NMIs */

/* Exit qualification of I/O instructions (table 28-5). */
#define	IO_SIZE(q)	((int)((q) & 0x7) + 1)
#define	IO_IN(q)	(((q) & 0x8) != 0)
#define	IO_STRING(q)	(((q) & 0x10) != 0)
#define	IO_REP(q)	(((q) & 0x20) != 0)
#define	IO_PORT(q)	((uint16_t)((q) >> 16))

/* Exit qualification of debug exceptions (table 28-1): what DR6 would have got. */
#define	DEBUG_QUAL_DR6	0x600full
#define	DR7_GD		(1ull << 13)

static enum vm_cpu_mode
vmx_cpu_mode(uint64_t cs_access)
{
	if ((vmcs_read(VMCS_GUEST_IA32_EFER) & EFER_LMA) != 0)
		return ((cs_access & 0x2000) != 0 ? CPU_MODE_64BIT : CPU_MODE_COMPATIBILITY);
	return ((vmcs_read(VMCS_GUEST_CR0) & CR0_PE) != 0 ? CPU_MODE_PROTECTED : CPU_MODE_REAL);
}

static enum vm_paging_mode
vmx_paging_mode(void)
{
	if ((vmcs_read(VMCS_GUEST_CR0) & CR0_PG) == 0)
		return (PAGING_MODE_FLAT);
	if ((vmcs_read(VMCS_GUEST_CR4) & CR4_PAE) == 0)
		return (PAGING_MODE_32);
	return ((vmcs_read(VMCS_GUEST_IA32_EFER) & EFER_LME) != 0 ? PAGING_MODE_64 : PAGING_MODE_PAE);
}

static void
vmexit_inst_emul(struct vm_exit *vme, uint64_t gpa, uint64_t gla)
{
	uint64_t cs_access = vmcs_read(VMCS_GUEST_CS_ACCESS_RIGHTS);
	struct vm_guest_paging *paging = &vme->u.inst_emul.paging;

	vme->exitcode = VM_EXITCODE_INST_EMUL;
	vme->inst_length = 0;
	vme->u.inst_emul.gpa = gpa;
	vme->u.inst_emul.gla = gla;
	paging->cr3 = vmcs_read(VMCS_GUEST_CR3);
	paging->cpl = (int)SEG_DESC_DPL(vmcs_read(VMCS_GUEST_SS_ACCESS_RIGHTS));
	paging->cpu_mode = vmx_cpu_mode(cs_access);
	paging->paging_mode = vmx_paging_mode();
	vme->u.inst_emul.cs_base = paging->cpu_mode == CPU_MODE_64BIT ? 0 : vmcs_read(VMCS_GUEST_CS_BASE);
	vme->u.inst_emul.cs_d = SEG_DESC_DEF32(cs_access);
}

static int
ept_fault_type(uint64_t qual)
{
	if ((qual & EPT_VIOLATION_DATA_WRITE) != 0)
		return (VM_PROT_WRITE);
	return ((qual & EPT_VIOLATION_INST_FETCH) != 0 ? VM_PROT_EXECUTE : VM_PROT_READ);
}

static bool
is_data_access(uint64_t qual)
{
	const uint64_t translated = EPT_VIOLATION_GLA_VALID | EPT_VIOLATION_XLAT_VALID;

	return ((qual & EPT_VIOLATION_INST_FETCH) == 0 && (qual & translated) == translated &&
	    (qual & (EPT_VIOLATION_DATA_READ | EPT_VIOLATION_DATA_WRITE)) != 0);
}

/* RAM is paged in or refused by vm_run(); anything else that is data is a device, reached by emulation. */
static void
vmx_handle_ept_fault(struct vmx_vcpu *vcpu, struct vm_exit *vme, uint64_t qual)
{
	uint64_t gpa = vmcs_read(VMCS_GUEST_PHYSICAL_ADDRESS), gi;

	if (vm_mem_allocated(vcpu->vcpu, gpa)) {
		vme->exitcode = VM_EXITCODE_PAGING;
		vme->inst_length = 0;
		vme->u.paging.gpa = gpa;
		vme->u.paging.fault_type = ept_fault_type(qual);
		vmm_stat_incr(vcpu->vcpu, VMEXIT_NESTED_FAULT, 1);
		/*
		 * The instruction runs again and will cause its debug exceptions then. Processors save none with a
		 * fault; Bochs 2.7 saves the step trap and would deliver it in front of the instruction.
		 */
		vmcs_write(VMCS_GUEST_PENDING_DBG_EXCEPTIONS, 0);
	} else if (is_data_access(qual)) {
		vmexit_inst_emul(vme, gpa, vmcs_read(VMCS_GUEST_LINEAR_ADDRESS));
		vmm_stat_incr(vcpu->vcpu, VMEXIT_INST_EMUL, 1);
	} else {
		return;
	}
	if ((vmcs_read(VMCS_IDT_VECTORING_INFO) & VMCS_INTR_VALID) == 0 && (qual & EXIT_QUAL_NMIUDTI) != 0) {
		gi = vmcs_read(VMCS_GUEST_INTERRUPTIBILITY);
		vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, gi | VMCS_INTERRUPTIBILITY_NMI_BLOCKING);
	}
}

static void
vmx_handle_io(struct vmx_vcpu *vcpu, struct vm_exit *vme, uint64_t qual)
{
	vmm_stat_incr(vcpu->vcpu, VMEXIT_INOUT, 1);
	vme->exitcode = IO_STRING(qual) ? VM_EXITCODE_INOUT_STR : VM_EXITCODE_INOUT;
	vme->u.inout.bytes = (uint8_t)IO_SIZE(qual);
	vme->u.inout.in = IO_IN(qual);
	vme->u.inout.string = IO_STRING(qual);
	vme->u.inout.rep = IO_REP(qual);
	vme->u.inout.port = IO_PORT(qual);
	vme->u.inout.eax = (uint32_t)vcpu->ctx.guest_rax;
}

static bool
vmx_handle_msr(struct vmx_vcpu *vcpu, struct vm_exit *vme, bool write)
{
	struct vmxctx *ctx = &vcpu->ctx;
	uint32_t num = (uint32_t)ctx->guest_rcx;
	uint64_t val = ctx->guest_rdx << 32 | (uint32_t)ctx->guest_rax;
	bool retu = false;
	int error;

	vmm_stat_incr(vcpu->vcpu, write ? VMEXIT_WRMSR : VMEXIT_RDMSR, 1);
	if (write)
		error = lapic_msr(num) ? lapic_wrmsr(vcpu->vcpu, num, val, &retu) : vmx_wrmsr(vcpu, num, val);
	else
		error = lapic_msr(num) ? lapic_rdmsr(vcpu->vcpu, num, &val, &retu) : vmx_rdmsr(vcpu, num, &val);
	if (error != 0) {
		vme->exitcode = write ? VM_EXITCODE_WRMSR : VM_EXITCODE_RDMSR;
		vme->u.msr.code = num;
		vme->u.msr.wval = write ? val : 0;
		return (false);
	}
	if (!write && vme->inst_length != 0) {
		ctx->guest_rax = (uint32_t)val;
		ctx->guest_rdx = val >> 32;
	}
	return (!retu);
}

/* Faults push RF = 1, so that a breakpoint on the instruction does not hit again (SDM volume 3, 17.3.1.1). */
static bool
is_fault(uint32_t vector)
{
	return (vector != IDT_DB && vector != IDT_BP && vector != IDT_OF && vector != IDT_DF && vector != IDT_MC);
}

/*
 * An exception that the bitmap catches. Only #MC is the host's; the others are caught on demand
 * (hw.vmm.trace_guest_exceptions) and go back to the guest with everything their delivery would have changed.
 */
static bool
vmx_handle_exception(struct vmx_vcpu *vcpu, struct vm_exit *vme, uint64_t qual)
{
	uint32_t info = (uint32_t)vmcs_read(VMCS_EXIT_INTR_INFO), type = info & VMCS_INTR_T_MASK;
	uint32_t vector = info & 0xff;
	uint64_t reflected = info & (VMCS_INTR_VALID | VMCS_INTR_DEL_ERRCODE | VMCS_INTR_T_MASK | 0xff);

	vmm_stat_incr(vcpu->vcpu, VMEXIT_EXCEPTION, 1);
	if (type == VMCS_INTR_T_NMI) {
		vme->inst_length = 0;
		return (true);		/* the host has taken it */
	}
	if (vector == IDT_MC) {
		__asm__ __volatile__("int $18");
		vme->inst_length = 0;
		return (true);
	}
	if (vector == IDT_BP && (vcpu->cap.set & (1u << VM_CAP_BPT_EXIT)) != 0) {
		vme->exitcode = VM_EXITCODE_BPT;
		vme->u.bpt.rip = vme->rip;
		/* Delivered by an entry, it pushes the address behind the instruction. */
		vmcs_write(VMCS_ENTRY_INST_LENGTH, (uint64_t)vme->inst_length);
		vme->inst_length = 0;
		return (false);
	}
	if (vector == IDT_PF)
		vcpu->ctx.guest_cr2 = qual;
	/* Processors save it so; Bochs 2.7 sets it only when it delivers the exception itself. */
	if (is_fault(vector) && !defect(DEFECT_VMX_REFLECTED_WITHOUT_RF))
		vmcs_write(VMCS_GUEST_RFLAGS, vmcs_read(VMCS_GUEST_RFLAGS) | PSL_RF);
	if (vector == IDT_DB && type == VMCS_INTR_T_HWEXCEPTION) {
		vcpu->ctx.guest_dr6 = (vcpu->ctx.guest_dr6 & ~0xfull) |
		    (qual & DEBUG_QUAL_DR6) | (defect(DEFECT_VMX_REFLECTED_AS_STEP) ? 1u << 14 : 0);
		vmcs_write(VMCS_GUEST_DR7, vmcs_read(VMCS_GUEST_DR7) & ~DR7_GD);
		vmcs_write(VMCS_GUEST_PENDING_DBG_EXCEPTIONS, 0);
	}
	if (type == VMCS_INTR_T_SWEXCEPTION || type == VMCS_INTR_T_PRIV_SWEXCEPTION)
		vmcs_write(VMCS_ENTRY_INST_LENGTH, (uint64_t)vme->inst_length);
	if ((info & VMCS_INTR_DEL_ERRCODE) != 0)
		reflected |= vmcs_read(VMCS_EXIT_INTR_ERRCODE) << 32;
	vm_exit_intinfo(vcpu->vcpu, reflected);
	if (vector != IDT_BP || !defect(DEFECT_VMX_REFLECTED_PAST_INT3))
		vme->inst_length = 0;
	return (true);
}

static bool
vmx_handle_cpuid(struct vmx_vcpu *vcpu)
{
	struct vmxctx *ctx = &vcpu->ctx;

	vmm_stat_incr(vcpu->vcpu, VMEXIT_CPUID, 1);
	return (x86_emulate_cpuid(vcpu->vcpu, &ctx->guest_rax, &ctx->guest_rbx, &ctx->guest_rcx, &ctx->guest_rdx) != 0);
}

static bool
vmx_handle_reason(struct vmx_vcpu *vcpu, struct vm_exit *vme, uint32_t reason, uint64_t qual)
{
	switch (reason) {
	case EXIT_REASON_EXT_INTR:
		vmm_stat_incr(vcpu->vcpu, VMEXIT_EXTINT, 1);
		vme->inst_length = 0;
		vmx_trigger_hostintr((int)(vmcs_read(VMCS_EXIT_INTR_INFO) & 0xff));
		return (true);
	case EXIT_REASON_EXCEPTION:
		return (vmx_handle_exception(vcpu, vme, qual));
	case EXIT_REASON_VMX_PREEMPT:
		/* The tick of the host that the guest held off came when interrupts went on again. */
		vme->inst_length = 0;
		return (true);
	case EXIT_REASON_INTR_WINDOW:
		vmm_stat_incr(vcpu->vcpu, VMEXIT_INTR_WINDOW, 1);
		vmx_clear_int_window_exiting(vcpu);
		vme->inst_length = 0;
		return (true);
	case EXIT_REASON_NMI_WINDOW:
		vmm_stat_incr(vcpu->vcpu, VMEXIT_NMI_WINDOW, 1);
		vmx_clear_nmi_window_exiting(vcpu);
		vme->inst_length = 0;
		return (true);
	case EXIT_REASON_CPUID:
		return (vmx_handle_cpuid(vcpu));
	case EXIT_REASON_RDMSR:
	case EXIT_REASON_WRMSR:
		return (vmx_handle_msr(vcpu, vme, reason == EXIT_REASON_WRMSR));
	case EXIT_REASON_CR_ACCESS:
		vmm_stat_incr(vcpu->vcpu, VMEXIT_CR_ACCESS, 1);
		return (vmx_emulate_cr_access(vcpu, qual));
	case EXIT_REASON_XSETBV:
		return (vmx_emulate_xsetbv(vcpu));
	case EXIT_REASON_INVD:
	case EXIT_REASON_WBINVD:
		return (true);		/* the caches are coherent */
	case EXIT_REASON_INOUT:
		vmx_handle_io(vcpu, vme, qual);
		return (false);
	case EXIT_REASON_HLT:
		vmm_stat_incr(vcpu->vcpu, VMEXIT_HLT, 1);
		vme->exitcode = VM_EXITCODE_HLT;
		vme->u.hlt.rflags = vmcs_read(VMCS_GUEST_RFLAGS);
		vme->u.hlt.intr_status = 0;
		return (false);
	case EXIT_REASON_PAUSE:
		vmm_stat_incr(vcpu->vcpu, VMEXIT_PAUSE, 1);
		vme->exitcode = VM_EXITCODE_PAUSE;
		return (false);
	case EXIT_REASON_MTF:
		vmm_stat_incr(vcpu->vcpu, VMEXIT_MTRAP, 1);
		vme->exitcode = VM_EXITCODE_MTRAP;
		vme->inst_length = 0;
		return (false);
	case EXIT_REASON_EPT_FAULT:
		vmx_handle_ept_fault(vcpu, vme, qual);
		return (false);
	case EXIT_REASON_TASK_SWITCH:
		vme->exitcode = VM_EXITCODE_TASK_SWITCH;
		return (false);
	case EXIT_REASON_MONITOR:
	case EXIT_REASON_MWAIT:
	case EXIT_REASON_VMCALL:
	case EXIT_REASON_VMCLEAR:
	case EXIT_REASON_VMLAUNCH:
	case EXIT_REASON_VMPTRLD:
	case EXIT_REASON_VMPTRST:
	case EXIT_REASON_VMREAD:
	case EXIT_REASON_VMRESUME:
	case EXIT_REASON_VMWRITE:
	case EXIT_REASON_VMXOFF:
	case EXIT_REASON_VMXON:
	case EXIT_REASON_INVEPT:
	case EXIT_REASON_INVVPID:
		vm_inject_ud(vcpu->vcpu);
		return (true);
	default:
		/* A triple fault among them: there is no state to continue from. */
		vmm_stat_incr(vcpu->vcpu, VMEXIT_UNKNOWN, 1);
		return (false);
	}
}

bool
vmx_exit_process(struct vmx_vcpu *vcpu, struct vm_exit *vme, uint32_t reason)
{
	uint64_t qual = vmcs_read(VMCS_EXIT_QUALIFICATION);
	bool handled;

	vme->exitcode = VM_EXITCODE_BOGUS;
	vmm_stat_incr(vcpu->vcpu, VMEXIT_COUNT, 1);
	vmx_defective_exit(vcpu, reason);
	if ((reason & EXIT_REASON_ENTRY_FAILED) == 0) {
		vmx_save_idt_vectoring(vcpu, reason, vme->inst_length);
		handled = vmx_handle_reason(vcpu, vme, reason, qual);
	} else {
		handled = false;
	}

	if (handled) {
		vme->rip += (uint64_t)vme->inst_length;
		vme->inst_length = 0;
		vmcs_write(VMCS_GUEST_RIP, vme->rip);
	} else if (vme->exitcode == VM_EXITCODE_BOGUS) {
		/* Nobody claims it: the end of this guest, with the reason for its log. */
		vme->exitcode = VM_EXITCODE_VMX;
		vme->inst_length = 0;
		vme->u.vmx.status = VM_SUCCESS;
		vme->u.vmx.inst_type = 0;
		vme->u.vmx.inst_error = 0;
		vme->u.vmx.exit_reason = reason & ~EXIT_REASON_ENTRY_FAILED;
		vme->u.vmx.exit_qualification = qual;
	}
	return (handled);
}

void
vmx_exit_inst_error(const struct vmxctx *vmxctx, int rc, struct vm_exit *vme)
{
	vme->inst_length = 0;
	vme->exitcode = VM_EXITCODE_VMX;
	vme->u.vmx.status = vmxctx->inst_fail_status;
	vme->u.vmx.inst_error = vmxctx->inst_fail_status == VM_FAIL_VALID ? (int)vmcs_read(VMCS_INSTRUCTION_ERROR) : 0;
	vme->u.vmx.exit_reason = ~0u;
	vme->u.vmx.exit_qualification = ~0ull;
	vme->u.vmx.inst_type = rc;
}
