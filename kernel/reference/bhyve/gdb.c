/* The vCPU threads' side of the debug stub (-G): they stop and tell why; the stub says how they go on. */
#include "bhyve.h"

static void
report_stop(struct bhyve *bhyve, const struct vcpu *vcpu, uint32_t why)
{
	uint8_t stop[16];
	uint32_t vcpuid = (uint32_t)vcpu->vcpuid;

	memcpy(stop, &vcpuid, 4);
	memcpy(stop + 4, &why, 4);
	memcpy(stop + 8, &vcpu->exitinfo.rip, 8);
	ctl_event_named(CTL_EV_DEBUG, bhyve->vm->name, stop, sizeof(stop));
}

/* An exit for the stub: waits until it lets the vCPU go on, or the VM ends. False without a stub. */
bool
bhyve_debug_exit(struct bhyve *bhyve, struct vcpu *vcpu)
{
	uint32_t why = CTL_DEBUG_SUSPENDED;

	if ((bhyve->flags & RUN_GDB) == 0)
		return (false);
	switch (vcpu->exitinfo.exitcode) {
	case VM_EXITCODE_BPT:
		why = CTL_DEBUG_BREAKPOINT;
		break;
	case VM_EXITCODE_MTRAP:
	case VM_EXITCODE_DB:
		vm_step_end(vcpu);
		why = CTL_DEBUG_STEPPED;
		break;
	default:
		break;
	}
	vcpu->debug_waits = true;
	report_stop(bhyve, vcpu, why);
	while (vcpu->debug_waits && bhyve->vm->suspend == VM_SUSPEND_NONE)
		sched_wait();
	vcpu->debug_waits = false;
	return (true);
}

/* 0; ENOENT without such a vCPU, EINVAL without a stub, EBUSY while it runs, EOPNOTSUPP where it cannot step. */
int
bhyve_debug(struct vm *vm, uint32_t vcpuid, uint32_t what)
{
	const struct bhyve *bhyve = vm->bhyve;
	struct vcpu *vcpu;

	if (bhyve == NULL || bhyve->ended || vcpuid >= bhyve->ncpu)
		return (ENOENT);
	if ((bhyve->flags & RUN_GDB) == 0)
		return (EINVAL);
	vcpu = vm->vcpus[vcpuid];
	if (what == CTL_DEBUG_SUSPEND) {
		vcpu->debugged = true;
		vcpu_notify(vcpu);
		return (0);
	}
	if (!vcpu->debug_waits)
		return (EBUSY);
	switch (what) {
	case CTL_DEBUG_STEP:
		if (vm_step_begin(vcpu) != 0)
			return (EOPNOTSUPP);
		vcpu->debugged = false;
		break;
	case CTL_DEBUG_REFLECT:
		vm_inject_bp(vcpu);
		break;
	case CTL_DEBUG_RESUME:
		vcpu->debugged = false;
		break;
	default:
		return (EINVAL);
	}
	vcpu->debug_waits = false;
	return (0);
}
