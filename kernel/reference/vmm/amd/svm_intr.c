#include <stdbool.h>
#include <stdint.h>

#include "vmm.h"
#include "cpufunc.h"
#include "svm_internal.h"


static bool
intercepted(const struct svm_vcpu *vcpu, uint32_t bit)
{
	return ((vcpu->vmcb->ctrl.intercept[VMCB_CTRL1_INTERCEPT] & bit) != 0);
}

static void
svm_eventinject(struct svm_vcpu *vcpu, uint32_t type, int vector, uint32_t error, bool error_valid)
{
	uint64_t inject = (uint32_t)vector | type | VMCB_EVENTINJ_VALID;

	if (error_valid)
		inject |= VMCB_EVENTINJ_EC_VALID | ((uint64_t)error << 32);
	vcpu->vmcb->ctrl.eventinj = inject;
}

/* Exit as soon as the guest could take an interrupt: a virtual interrupt that is intercepted at its delivery. */
static void
enable_intr_window_exiting(struct svm_vcpu *vcpu)
{
	if (vcpu->vmcb->ctrl.v_irq && intercepted(vcpu, VMCB_INTCPT_VINTR))
		return;
	vmcb_set_v_irq(vcpu, 1);
	vmcb_set_intercept(vcpu, VMCB_CTRL1_INTERCEPT, VMCB_INTCPT_VINTR, 1);
}

void
disable_intr_window_exiting(struct svm_vcpu *vcpu)
{
	if (!vcpu->vmcb->ctrl.v_irq && !intercepted(vcpu, VMCB_INTCPT_VINTR))
		return;
	vmcb_set_v_irq(vcpu, 0);
	vmcb_set_intercept(vcpu, VMCB_CTRL1_INTERCEPT, VMCB_INTCPT_VINTR, 0);
}

/* NMIs are blocked from their delivery to the next IRET; its intercept says when. */
static bool
nmi_blocked(const struct svm_vcpu *vcpu)
{
	return (intercepted(vcpu, VMCB_INTCPT_IRET));
}

static void
enable_nmi_blocking(struct svm_vcpu *vcpu)
{
	vmcb_set_intercept(vcpu, VMCB_CTRL1_INTERCEPT, VMCB_INTCPT_IRET, 1);
}

void
clear_nmi_blocking(struct svm_vcpu *vcpu)
{
	vmcb_set_intercept(vcpu, VMCB_CTRL1_INTERCEPT, VMCB_INTCPT_IRET, 0);
	/* The IRET itself is still to be executed: keep the next NMI off it. */
	vcpu->vmcb->ctrl.intr_shadow = 1;
}

/* An event whose delivery the exit broke off is delivered again, before anything new. */
void
svm_save_intinfo(struct svm_vcpu *vcpu)
{
	struct vmcb_ctrl *ctrl = &vcpu->vmcb->ctrl;

	ctrl->eventinj = 0;
	if (!VMCB_EXITINTINFO_VALID(ctrl->exitintinfo))
		return;
	vmm_stat_incr(vcpu->vcpu, VCPU_EXITINTINFO, 1);
	vm_exit_intinfo(vcpu->vcpu, ctrl->exitintinfo);
}

static void
svm_inj_intinfo(struct svm_vcpu *vcpu)
{
	uint64_t intinfo;

	if (!vm_entry_intinfo(vcpu->vcpu, &intinfo))
		return;
	svm_eventinject(vcpu, (uint32_t)intinfo & VMCB_EVENTINJ_TYPE_MASK, intinfo & 0xff,
	    (uint32_t)(intinfo >> 32), (intinfo & VMCB_EVENTINJ_EC_VALID) != 0);
	vmm_stat_incr(vcpu->vcpu, VCPU_INTINFO_INJECTED, 1);
}

/* True when an interrupt window is needed to get something pending into the guest. */
static bool
svm_inj_nmi(struct svm_vcpu *vcpu)
{
	struct vmcb_ctrl *ctrl = &vcpu->vmcb->ctrl;

	if (!vm_nmi_pending(vcpu->vcpu) || nmi_blocked(vcpu))
		return (false);
	if (ctrl->intr_shadow != 0 || (ctrl->eventinj & VMCB_EVENTINJ_VALID) != 0)
		return (true);
	vm_nmi_clear(vcpu->vcpu);
	svm_eventinject(vcpu, VMCB_EVENTINJ_TYPE_NMI, IDT_NMI, 0, false);
	enable_nmi_blocking(vcpu);
	return (false);
}

static bool
svm_inj_extint(struct svm_vcpu *vcpu, struct vlapic *vlapic)
{
	const struct vmcb_ctrl *ctrl = &vcpu->vmcb->ctrl;
	int vector;

	if (vm_hwintr_masked(vcpu->vcpu) || !vlapic_pending_intr(vlapic, &vector))
		return (false);
	if ((vcpu->vmcb->state.rflags & PSL_I) == 0 || ctrl->intr_shadow != 0 ||
	    (ctrl->eventinj & VMCB_EVENTINJ_VALID) != 0)
		return (true);
	svm_eventinject(vcpu, VMCB_EVENTINJ_TYPE_INTR, vector, 0, false);
	vlapic_intr_accepted(vlapic, vector);
	return (false);
}

void
svm_inj_interrupts(struct svm_vcpu *vcpu, struct vlapic *vlapic)
{
	struct vmcb_ctrl *ctrl = &vcpu->vmcb->ctrl;
	bool need_window;

	/* An interrupt shadow covers one instruction; completed by emulation, it is over. */
	if (vcpu->nextrip != vcpu->vmcb->state.rip)
		ctrl->intr_shadow = 0;

	svm_inj_intinfo(vcpu);
	need_window = svm_inj_nmi(vcpu);
	need_window |= svm_inj_extint(vcpu, vlapic);

	/* The guest's CR8 is V_TPR; it follows what the guest wrote to the local APIC's page. */
	vmcb_set_v_tpr(vcpu, (uint8_t)vlapic_get_cr8(vlapic));

	if (need_window)
		enable_intr_window_exiting(vcpu);
	else
		disable_intr_window_exiting(vcpu);
}

/* A CR8 write of the guest reaches the local APIC's task priority. */
void
svm_update_virqinfo(struct svm_vcpu *vcpu, struct vlapic *vlapic)
{
	vlapic_set_cr8(vlapic, vcpu->vmcb->ctrl.v_tpr);
}
