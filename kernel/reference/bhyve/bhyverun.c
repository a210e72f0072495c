/* The vCPU thread of the bhyve process: run, look at the exit, run on; the exit status at the end. */
#include "bhyve.h"

#define STATUS_RESET		0
#define STATUS_POWEROFF		1
#define STATUS_HALT		2
#define STATUS_TRIPLEFAULT	3
#define STATUS_ERROR		4
#define STATUS_ABORT		134	/* SIGABRT, as a shell reports it */
#define STATUS_KILL		137

static struct bhyve processes[VM_MAX];

void
bhyve_error(struct bhyve *bhyve, const char *format, ...)
{
	size_t used = strlen(bhyve->errors);
	__builtin_va_list ap;

	__builtin_va_start(ap, format);
	vsnprintf(bhyve->errors + used, STDERR_SIZE - used, format, ap);
	__builtin_va_end(ap);
}

/* An MSR the kernel does not know: #GP, unless -w was given (xmsr.c; DEBUGCTL among them). */
static void
emulate_msr(struct bhyve *bhyve, struct vcpu *vcpu, bool write)
{
	const struct vm_exit *vme = &vcpu->exitinfo;

	bhyve_error(bhyve, "%s to register 0x%x%s on vcpu 0\n", write ? "wrmsr" : "rdmsr", vme->u.msr.code, "");
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

/* What becomes of an exit; true while the guest goes on. */
static bool
handle(struct bhyve *bhyve, struct vcpu *vcpu)
{
	const struct vm_exit *vme = &vcpu->exitinfo;

	switch (vme->exitcode) {
	case VM_EXITCODE_INOUT:
		switch (bhyve_inout(bhyve, vcpu)) {
		case INOUT_OK:
			return (true);
		case INOUT_EXIT:
			return (false);
		case INOUT_ABORT:
			bhyve->status = STATUS_ABORT;
			return (false);
		}
		return (false);
	case VM_EXITCODE_RDMSR:
	case VM_EXITCODE_WRMSR:
		emulate_msr(bhyve, vcpu, vme->exitcode == VM_EXITCODE_WRMSR);
		return (true);
	case VM_EXITCODE_PAUSE:
	case VM_EXITCODE_REQIDLE:
		return (true);
	case VM_EXITCODE_SUSPENDED:
		bhyve->status = suspend_status(vme->u.suspended.how);
		return (false);
	case VM_EXITCODE_SVM:
		bhyve_error(bhyve, "vm exit[0]\n\treason\t\tSVM\n\trip\t\t0x%016lx\n\tinst_length\t%d\n\texitcode\t%#lx\n"
		    "\texitinfo1\t%#lx\n\texitinfo2\t%#lx\n", vme->rip, vme->inst_length, vme->u.svm.exitcode,
		    vme->u.svm.exitinfo1, vme->u.svm.exitinfo2);
		bhyve->status = STATUS_ABORT;
		return (false);
	case VM_EXITCODE_VMX:
		bhyve_error(bhyve, "vm exit[0]\n\treason\t\tVMX\n\trip\t\t0x%016lx\n\tinst_length\t%d\n\tstatus\t\t%d\n"
		    "\texit_reason\t%u (%s)\n\tqualification\t0x%016lx\n\tinst_type\t\t%d\n\tinst_error\t\t%d\n", vme->rip,
		    vme->inst_length, vme->u.vmx.status, vme->u.vmx.exit_reason,
		    vme->u.vmx.exit_reason == 2 ? "Triple fault" : "?", vme->u.vmx.exit_qualification,
		    vme->u.vmx.inst_type, vme->u.vmx.inst_error);
		bhyve->status = STATUS_ABORT;
		return (false);
	default:
		bhyve_error(bhyve, "vm_loop: unexpected exitcode 0x%x\n", vme->exitcode);
		bhyve->status = STATUS_ERROR;
		return (false);
	}
}

static void
bhyve_main(void *arg)
{
	struct bhyve *bhyve = arg;
	struct vcpu *vcpu = bhyve->vm->vcpu;
	uint8_t exit[4 + STDERR_SIZE];
	size_t length;
	int error;

	for (;;) {
		error = vm_run(vcpu);
		if (error != 0) {
			bhyve_error(bhyve, "vm_run error -1, errno %d\n", error);
			bhyve->status = 1;
			break;
		}
		if (!handle(bhyve, vcpu))
			break;
	}
	uart_flush(bhyve);
	length = strlen(bhyve->errors);
	memcpy(exit, &bhyve->status, 4);
	memcpy(exit + 4, bhyve->errors, length);
	bhyve->ended = true;
	ctl_event_named(CTL_EV_EXITED, bhyve->vm->name, exit, 4 + length);
}

static void
reap(struct bhyve *bhyve)
{
	thread_reap(bhyve->thread);
	bhyve->vm->bhyve = NULL;
	bhyve->used = false;
}

/* Start the process from the reset state; 0, EBUSY while one runs, EINVAL, ENOMEM. */
int
bhyve_start(struct vm *vm, uint32_t ncpu, uint32_t flags, const int32_t *pins)
{
	struct bhyve *bhyve = NULL;
	uint32_t mask = (1u << MAXCPU) - 1;

	if (ncpu != 1 || vm->ram == NULL)
		return (EINVAL);
	if (vm->bhyve != NULL) {
		if (!vm->bhyve->ended)
			return (EBUSY);
		reap(vm->bhyve);
	}
	for (int n = 0; n < VM_MAX && bhyve == NULL; n++)
		if (!processes[n].used)
			bhyve = &processes[n];
	if (bhyve == NULL)
		return (ENOMEM);
	memset(bhyve, 0, sizeof(*bhyve));
	bhyve->vm = vm;
	bhyve->flags = flags;
	if (vm->used_before && vm_renew(vm) != 0)
		return (ENOMEM);
	vm->used_before = true;
	(void)vmm_set_halt_pause(vm->vcpu, (flags & RUN_HLT_EXIT) != 0, (flags & RUN_PAUSE_EXIT) != 0);
	if (vcpu_reset(vm->vcpu) != 0)
		return (EINVAL);
	if (pins[0] >= 0) {
		if (pins[0] >= MAXCPU)
			return (EINVAL);
		mask = 1u << pins[0];
	}
	bhyve->thread = kthread_add("vcpu 0", bhyve_main, bhyve, 0);
	if (bhyve->thread == NULL)
		return (ENOMEM);
	bhyve->used = true;
	vm->bhyve = bhyve;
	thread_setcpu(bhyve->thread, mask);
	return (0);
}

static void
end_process(struct vm *vm, enum vm_suspend_how how)
{
	struct bhyve *bhyve = vm->bhyve;

	if (bhyve == NULL)
		return;
	bhyve->thread->td_stopped = false;
	vm->vcpu->reqidle = 0;
	if (!bhyve->ended)
		(void)vm_suspend(vm, how);
	while (!bhyve->ended) {
		if (vm->vcpu->running)
			cpu_kick(vm->vcpu->hostcpu);
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

/* Bytes for COM1; the number taken. */
int
bhyve_console_in(struct vm *vm, const uint8_t *bytes, size_t length)
{
	struct uart *u;
	int taken = 0;

	if (vm->bhyve == NULL || vm->bhyve->ended)
		return (0);
	u = &vm->bhyve->uart;
	vcpu_freeze(vm->vcpu);
	while (length-- != 0 && u->rx_count < UART_RX_SIZE) {
		u->rx[(u->rx_head + u->rx_count++) % UART_RX_SIZE] = *bytes++;
		taken++;
	}
	vcpu_thaw(vm->vcpu);
	return (taken);
}

/* Does any process run a guest? */
bool
bhyve_running(void)
{
	for (int n = 0; n < VM_MAX; n++)
		if (processes[n].used && !processes[n].ended)
			return (true);
	return (false);
}

struct thread *
bhyve_thread(struct vm *vm)
{
	return (vm->bhyve != NULL && !vm->bhyve->ended ? vm->bhyve->thread : NULL);
}
