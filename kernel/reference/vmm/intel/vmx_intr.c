#include <stdbool.h>
#include <stdint.h>

#include "cpufunc.h"
#include "defects.h"
#include "vmx_internal.h"

/* An interrupt gate of the host's IDT. */
struct gate {
	uint16_t offset_low;
	uint16_t selector;
	uint8_t ist;
	uint8_t type;
	uint16_t offset_middle;
	uint32_t offset_high;
	uint32_t reserved;
};

static void
vmx_set_int_window_exiting(struct vmx_vcpu *vcpu)
{
	vmx_set_procbased(vcpu, PROCBASED_INT_WINDOW_EXITING, 0);
}

void
vmx_clear_int_window_exiting(struct vmx_vcpu *vcpu)
{
	vmx_set_procbased(vcpu, 0, PROCBASED_INT_WINDOW_EXITING);
}

static void
vmx_set_nmi_window_exiting(struct vmx_vcpu *vcpu)
{
	vmx_set_procbased(vcpu, PROCBASED_NMI_WINDOW_EXITING, 0);
}

void
vmx_clear_nmi_window_exiting(struct vmx_vcpu *vcpu)
{
	vmx_set_procbased(vcpu, 0, PROCBASED_NMI_WINDOW_EXITING);
}

static bool
has_instruction_length(uint32_t type)
{
	return (type == VMCS_INTR_T_SWINTR || type == VMCS_INTR_T_PRIV_SWEXCEPTION || type == VMCS_INTR_T_SWEXCEPTION);
}

/* An event whose delivery the exit broke off is delivered again, before anything new. */
void
vmx_save_idt_vectoring(struct vmx_vcpu *vcpu, uint32_t reason, int inst_length)
{
	uint32_t info = (uint32_t)vmcs_read(VMCS_IDT_VECTORING_INFO);
	uint64_t gi, exitintinfo;

	if ((info & VMCS_INTR_VALID) == 0)
		return;
	info &= ~(1u << 12);		/* undefined */
	exitintinfo = info;
	if ((info & VMCS_INTR_DEL_ERRCODE) != 0)
		exitintinfo |= vmcs_read(VMCS_IDT_VECTORING_ERROR) << 32;
	vm_exit_intinfo(vcpu->vcpu, exitintinfo);
	if (has_instruction_length(info & VMCS_INTR_T_MASK))
		vmcs_write(VMCS_ENTRY_INST_LENGTH, (uint64_t)inst_length);
	/* Blocking by an NMI that was not delivered has not begun. */
	if ((info & VMCS_INTR_T_MASK) == VMCS_INTR_T_NMI && reason != EXIT_REASON_TASK_SWITCH) {
		gi = vmcs_read(VMCS_GUEST_INTERRUPTIBILITY);
		vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, gi & ~(uint64_t)VMCS_INTERRUPTIBILITY_NMI_BLOCKING);
	}
}

/* The event that is due first: what was broken off, or an exception the hypervisor raises. */
static void
vmx_inject_intinfo(struct vmx_vcpu *vcpu)
{
	uint64_t intinfo;
	uint32_t info, vector;

	if (!vm_entry_intinfo(vcpu->vcpu, &intinfo))
		return;
	info = (uint32_t)intinfo;
	vector = info & 0xff;
	/* INT3 and INTO have a type of their own (SDM volume 3, 25.8.3). */
	if ((info & VMCS_INTR_T_MASK) == VMCS_INTR_T_HWEXCEPTION && (vector == IDT_BP || vector == IDT_OF))
		info = (info & ~VMCS_INTR_T_MASK) | VMCS_INTR_T_SWEXCEPTION;
	/* There are no error codes in real mode. */
	if ((vmcs_read(VMCS_GUEST_CR0) & CR0_PE) == 0)
		info &= ~VMCS_INTR_DEL_ERRCODE;
	if ((info & VMCS_INTR_DEL_ERRCODE) != 0)
		vmcs_write(VMCS_ENTRY_EXCEPTION_ERROR, intinfo >> 32);
	vmcs_write(VMCS_ENTRY_INTR_INFO, info);
}

/* Can something that is not part of the instruction stream be delivered now? */
static bool
interruptible(uint64_t gi)
{
	if ((gi & HWINTR_BLOCKING) != 0 || (vmcs_read(VMCS_ENTRY_INTR_INFO) & VMCS_INTR_VALID) != 0)
		return (false);
	/* An injected event would swallow a debug exception that is due (SDM volume 3, 27.7.3). */
	return (vmcs_read(VMCS_GUEST_PENDING_DBG_EXCEPTIONS) == 0);
}

static void
vmx_inject_nmi(struct vmx_vcpu *vcpu, uint64_t gi)
{
	if (!vm_nmi_pending(vcpu->vcpu))
		return;
	if ((gi & VMCS_INTERRUPTIBILITY_NMI_BLOCKING) != 0 || !interruptible(gi)) {
		vmx_set_nmi_window_exiting(vcpu);
		return;
	}
	vmcs_write(VMCS_ENTRY_INTR_INFO, VMCS_INTR_VALID | VMCS_INTR_T_NMI | IDT_NMI);
	vm_nmi_clear(vcpu->vcpu);
}

static void
vmx_inject_extint(struct vmx_vcpu *vcpu, struct vlapic *vlapic, uint64_t gi)
{
	int vector;

	/* The exit for the window comes first. */
	if ((vcpu->cap.proc_ctls & PROCBASED_INT_WINDOW_EXITING) != 0)
		return;
	if (vm_hwintr_masked(vcpu->vcpu) || !vlapic_pending_intr(vlapic, &vector))
		return;
	if ((vmcs_read(VMCS_GUEST_RFLAGS) & PSL_I) == 0 || !interruptible(gi)) {
		vmx_set_int_window_exiting(vcpu);
		return;
	}
	vmcs_write(VMCS_ENTRY_INTR_INFO, VMCS_INTR_VALID | VMCS_INTR_T_HWINTR | (uint32_t)vector);
	vlapic_intr_accepted(vlapic, vector);
	/* A guest that halted without an exit is woken by the event (SDM volume 3, 27.7.2). */
}

void
vmx_inject_interrupts(struct vmx_vcpu *vcpu, struct vlapic *vlapic, uint64_t guestrip)
{
	uint64_t gi = vmcs_read(VMCS_GUEST_INTERRUPTIBILITY);

	/* An interrupt shadow covers one instruction; completed by emulation, it is over. */
	if (vcpu->nextrip != guestrip && (gi & HWINTR_BLOCKING) != 0 && !defect(DEFECT_VMX_SHADOW_STAYS)) {
		gi &= ~(uint64_t)HWINTR_BLOCKING;
		vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, gi);
	}
	vmx_inject_intinfo(vcpu);
	vmx_inject_nmi(vcpu, gi);
	vmx_inject_extint(vcpu, vlapic, gi);
}

/* The processor acknowledged an interrupt of the host when it left the guest: its handler has yet to be called. */
void
vmx_trigger_hostintr(int vector)
{
	struct region_descriptor idtr;
	const struct gate *gate;

	sidt(&idtr);
	gate = (const struct gate *)(uintptr_t)idtr.base + vector;
	vmx_call_isr((uintptr_t)gate->offset_high << 32 | (uintptr_t)gate->offset_middle << 16 | gate->offset_low);
}
