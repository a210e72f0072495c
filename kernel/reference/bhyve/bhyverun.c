/* The vCPU thread of the bhyve process: run, look at the exit, run on; the exit status at the end. */
#include "bhyve.h"

#define STATUS_RESET		0
#define STATUS_POWEROFF		1
#define STATUS_HALT		2
#define STATUS_TRIPLEFAULT	3
#define STATUS_ERROR		4
#define STATUS_ABORT		134	/* SIGABRT, as a shell reports it */
#define STATUS_KILL		137

/* Where the threads' thread-local storage would be, each with its own; the GS base of user mode stays 0, as FreeBSD's. */
#define TLS			0x800a00000ull
#define TLS_PROCESS		0x100000ull
#define TLS_THREAD		0x1000ull

static struct bhyve processes[VM_MAX];

void
bhyve_error(struct bhyve *bhyve, const char *format, ...)
{
	__builtin_va_list ap;
	size_t used;

	mtx_lock_spin(&bhyve->mtx);
	used = strlen(bhyve->errors);
	__builtin_va_start(ap, format);
	vsnprintf(bhyve->errors + used, STDERR_SIZE - used, format, ap);
	__builtin_va_end(ap);
	mtx_unlock_spin(&bhyve->mtx);
}

/* An MSR the kernel does not know: #GP, unless -w was given (xmsr.c; DEBUGCTL among them). */
static void
emulate_msr(struct bhyve *bhyve, struct vcpu *vcpu, bool write)
{
	const struct vm_exit *vme = &vcpu->exitinfo;

	bhyve_error(bhyve, "%s to register 0x%x on vcpu %d\n", write ? "wrmsr" : "rdmsr", vme->u.msr.code,
	    vcpu->vcpuid);
	if ((bhyve->flags & RUN_IGNORE_MSR) == 0) {
		vm_inject_gp(vcpu);
		return;
	}
	if (!write) {
		(void)vm_set_register(vcpu, VM_REG_GUEST_RAX, 0);
		(void)vm_set_register(vcpu, VM_REG_GUEST_RDX, 0);
	}
}

static int
suspend_status(enum vm_suspend_how how)
{
	switch (how) {
	case VM_SUSPEND_RESET:
		return (STATUS_RESET);
	case VM_SUSPEND_POWEROFF:
		return (STATUS_POWEROFF);
	case VM_SUSPEND_HALT:
		return (STATUS_HALT);
	case VM_SUSPEND_TRIPLEFAULT:
		return (STATUS_TRIPLEFAULT);
	case VM_SUSPEND_KILL:
		return (STATUS_KILL);
	default:
		return (100);
	}
}

/* A start-up IPI: the processor begins in real mode at the page that the IPI names. */
static void
spinup_ap(struct bhyve *bhyve, const struct vm_exit *vme)
{
	struct vcpu *ap = bhyve->vm->vcpus[vme->u.spinup_ap.vcpu];
	uint64_t rip = vme->u.spinup_ap.rip;
	struct seg_desc cs = { rip, 0xffff, 0x93 };

	/* One that ran until its INIT is on its way out of the guest. */
	while (!ap->waiting && bhyve->vm->suspend == VM_SUSPEND_NONE)
		sched_wait();
	if (ap->init)
		vcpu_init_ipi(ap);
	else
		(void)vcpu_reset(ap);
	(void)vm_set_desc(ap, VM_REG_GUEST_CS, &cs);
	(void)vm_set_register(ap, VM_REG_GUEST_CS, rip >> 4);
	(void)vm_set_register(ap, VM_REG_GUEST_RIP, 0);
	ap->parked = false;
}

/* What becomes of an exit; true while the guest goes on, else *status is how bhyve ends. */
static bool
handle(struct bhyve *bhyve, struct vcpu *vcpu, int *status)
{
	const struct vm_exit *vme = &vcpu->exitinfo;

	switch (vme->exitcode) {
	case VM_EXITCODE_INOUT:
	case VM_EXITCODE_INOUT_STR:
		switch (bhyve_inout(bhyve, vcpu, status)) {
		case INOUT_OK:
			return (true);
		case INOUT_EXIT:
			return (false);
		case INOUT_ABORT:
			*status = STATUS_ABORT;
			return (false);
		}
		return (false);
	case VM_EXITCODE_RDMSR:
	case VM_EXITCODE_WRMSR:
		emulate_msr(bhyve, vcpu, vme->exitcode == VM_EXITCODE_WRMSR);
		return (true);
	case VM_EXITCODE_SPINUP_AP:
		spinup_ap(bhyve, vme);
		return (true);
	case VM_EXITCODE_PAUSE:
	case VM_EXITCODE_REQIDLE:
		return (true);
	case VM_EXITCODE_DEBUG:
	case VM_EXITCODE_BPT:
	case VM_EXITCODE_MTRAP:
	case VM_EXITCODE_DB:
		if (bhyve_debug_exit(bhyve, vcpu))
			return (true);
		bhyve_error(bhyve, "vm_loop: unexpected exitcode 0x%x\n", vme->exitcode);
		*status = STATUS_ERROR;
		return (false);
	case VM_EXITCODE_SUSPENDED:
		*status = suspend_status(vme->u.suspended.how);
		return (false);
	case VM_EXITCODE_SVM:
		bhyve_error(bhyve, "vm exit[%d]\n\treason\t\tSVM\n\trip\t\t0x%016lx\n\tinst_length\t%d\n\texitcode\t%#lx\n"
		    "\texitinfo1\t%#lx\n\texitinfo2\t%#lx\n", vcpu->vcpuid, vme->rip, vme->inst_length, vme->u.svm.exitcode,
		    vme->u.svm.exitinfo1, vme->u.svm.exitinfo2);
		*status = STATUS_ABORT;
		return (false);
	case VM_EXITCODE_VMX:
		bhyve_error(bhyve, "vm exit[%d]\n\treason\t\tVMX\n\trip\t\t0x%016lx\n\tinst_length\t%d\n\tstatus\t\t%d\n"
		    "\texit_reason\t%u (%s)\n\tqualification\t0x%016lx\n\tinst_type\t\t%d\n\tinst_error\t\t%d\n", vcpu->vcpuid,
		    vme->rip, vme->inst_length, vme->u.vmx.status, vme->u.vmx.exit_reason,
		    vme->u.vmx.exit_reason == 2 ? "Triple fault" : "?", vme->u.vmx.exit_qualification,
		    vme->u.vmx.inst_type, vme->u.vmx.inst_error);
		*status = STATUS_ABORT;
		return (false);
	default:
		bhyve_error(bhyve, "vm_loop: unexpected exitcode 0x%x\n", vme->exitcode);
		*status = STATUS_ERROR;
		return (false);
	}
}

/* The first thread that is through takes the process with it. */
static void
end_all(struct bhyve *bhyve, int status)
{
	if (__atomic_exchange_n(&bhyve->ending, true, __ATOMIC_SEQ_CST))
		return;
	bhyve->status = status;
	if (bhyve->ncpu > 1)
		(void)vm_suspend(bhyve->vm, VM_SUSPEND_KILL);
}

static void
report_exit(struct bhyve *bhyve)
{
	uint8_t exit[4 + STDERR_SIZE];
	size_t length = strlen(bhyve->errors);

	mtx_lock_spin(&bhyve->mtx);
	uart_flush(bhyve);
	mtx_unlock_spin(&bhyve->mtx);
	memcpy(exit, &bhyve->status, 4);
	memcpy(exit + 4, bhyve->errors, length);
	bhyve->ended = true;
	ctl_event_named(CTL_EV_EXITED, bhyve->vm->name, exit, 4 + length);
}

static void
vcpu_loop(struct bhyve *bhyve, struct vcpu *vcpu)
{
	int error, status = 0;

	user_return();
	do {
		error = vm_run(vcpu);
		user_return();
		if (error != 0) {
			bhyve_error(bhyve, "vm_run error -1, errno %d\n", error);
			end_all(bhyve, 1);
			return;
		}
	} while (handle(bhyve, vcpu, &status));
	end_all(bhyve, status);
}

static void
bhyve_main(void *arg)
{
	struct vcpu *vcpu = arg;
	struct bhyve *bhyve = vcpu->vm->bhyve;

	vcpu_loop(bhyve, vcpu);
	if (__atomic_sub_fetch(&bhyve->left, 1, __ATOMIC_SEQ_CST) == 0)
		report_exit(bhyve);
}

/* For every tick: what a guest sent before it went quiet is on its way even if nothing more ever happens in it. */
void
bhyve_tick(void)
{
	for (int n = 0; n < VM_MAX; n++) {
		struct bhyve *bhyve = &processes[n];

		if (!bhyve->used || bhyve->ended || bhyve->uart.tx_count == 0)
			continue;
		mtx_lock_spin(&bhyve->mtx);
		if (bhyve->uart.tx_count == bhyve->uart.tx_seen)
			uart_flush(bhyve);
		bhyve->uart.tx_seen = bhyve->uart.tx_count;
		mtx_unlock_spin(&bhyve->mtx);
	}
}

static void
reap(struct bhyve *bhyve)
{
	for (uint32_t n = 0; n < bhyve->ncpu; n++)
		if (bhyve->threads[n] != NULL)
			thread_reap(bhyve->threads[n]);
	bhyve->vm->bhyve = NULL;
	bhyve->used = false;
}

static struct bhyve *
process_alloc(struct vm *vm, uint32_t ncpu, uint32_t flags)
{
	for (int n = 0; n < VM_MAX; n++) {
		struct bhyve *bhyve = &processes[n];

		if (bhyve->used)
			continue;
		memset(bhyve, 0, sizeof(*bhyve));
		bhyve->used = true;
		bhyve->vm = vm;
		bhyve->ncpu = bhyve->left = ncpu;
		bhyve->flags = flags;
		return (bhyve);
	}
	return (NULL);
}

/* All threads, none of them running yet; 0, EINVAL or ENOMEM. */
static int
make_threads(struct bhyve *bhyve)
{
	char name[16];

	for (uint32_t n = 0; n < bhyve->ncpu; n++) {
		struct vcpu *vcpu = vm_vcpu(bhyve->vm, n);

		if (vcpu == NULL)
			return (ENOMEM);
		(void)vmm_set_halt_pause(vcpu, (bhyve->flags & RUN_HLT_EXIT) != 0, (bhyve->flags & RUN_PAUSE_EXIT) != 0);
		if (vcpu_reset(vcpu) != 0)
			return (EINVAL);
		vcpu->parked = n != 0;
		vcpu->init = false;
		if (vm_restore_vcpu(vcpu) != 0)
			return (EINVAL);
		snprintf(name, sizeof(name), "vcpu %u", n);
		bhyve->threads[n] = kthread_add(name, bhyve_main, vcpu, 0);
		if (bhyve->threads[n] == NULL)
			return (ENOMEM);
		bhyve->threads[n]->td_pcb.pcb_fsbase = TLS + (uint64_t)(bhyve - processes) * TLS_PROCESS + n * TLS_THREAD;
	}
	return (0);
}

/* Start the process from the reset state; 0, EBUSY while one runs, EINVAL, ENOMEM. */
int
bhyve_start(struct vm *vm, uint32_t ncpu, uint32_t flags, const int32_t *pins)
{
	struct bhyve *bhyve;
	int error;

	if (ncpu == 0 || ncpu > VM_MAXCPU || vm->ram == NULL)
		return (EINVAL);
	for (uint32_t n = 0; n < ncpu; n++)
		if (pins[n] >= MAXCPU)
			return (EINVAL);
	if (vm->bhyve != NULL) {
		if (!vm->bhyve->ended)
			return (EBUSY);
		reap(vm->bhyve);
	}
	if (vm->used_before && vm_renew(vm) != 0)
		return (ENOMEM);
	vm->used_before = true;
	bhyve = process_alloc(vm, ncpu, flags);
	if (bhyve == NULL)
		return (ENOMEM);
	vm->bhyve = bhyve;
	error = make_threads(bhyve);
	vm_snapshot_done(vm);
	if (error != 0) {
		/* What there is of threads ends as soon as it may run. */
		(void)vm_suspend(vm, VM_SUSPEND_KILL);
		bhyve->ending = true;
		bhyve->left = bhyve->ncpu + 1;
	}
	vm->active_cpus = (1u << ncpu) - 1;
	for (uint32_t n = 0; n < ncpu; n++) {
		if (bhyve->threads[n] != NULL)
			thread_setcpu(bhyve->threads[n], pins[n] >= 0 ? 1u << pins[n] : (1u << MAXCPU) - 1);
	}
	if (error != 0)
		reap(bhyve);
	return (error);
}

void
bhyve_stop(struct vm *vm, bool stop)
{
	struct bhyve *bhyve = vm->bhyve;

	for (uint32_t n = 0; n < bhyve->ncpu; n++) {
		bhyve->threads[n]->td_stopped = stop;
		/* Out of the guest, so that it comes to where threads stop. */
		if (vm->vcpus[n]->running) {
			pcpus[vm->vcpus[n]->hostcpu].pc_ast = 1;
			vcpu_notify(vm->vcpus[n]);
		}
	}
}

static void
end_process(struct vm *vm, enum vm_suspend_how how)
{
	struct bhyve *bhyve = vm->bhyve;

	if (bhyve == NULL)
		return;
	if (!bhyve->ended) {
		bhyve_stop(vm, false);
		(void)vm_suspend(vm, how);
	}
	while (!bhyve->ended) {
		for (uint32_t n = 0; n < bhyve->ncpu; n++)
			vcpu_notify(vm->vcpus[n]);
		sched_wait();
	}
	reap(bhyve);
}

/* End the process as SIGKILL does, and wait for it. */
void
bhyve_kill(struct vm *vm)
{
	end_process(vm, VM_SUSPEND_KILL);
}

/* The VM goes away under the process, which ends of itself. */
void
bhyve_vm_gone(struct vm *vm)
{
	end_process(vm, VM_SUSPEND_DESTROY);
}

struct thread *
bhyve_thread(struct vm *vm, uint32_t vcpuid)
{
	const struct bhyve *bhyve = vm->bhyve;

	return (bhyve != NULL && !bhyve->ended && vcpuid < bhyve->ncpu ? bhyve->threads[vcpuid] : NULL);
}

/* Is any of the processes running? */
bool
bhyve_running(void)
{
	for (int n = 0; n < VM_MAX; n++)
		if (processes[n].used && !processes[n].ended)
			return (true);
	return (false);
}
