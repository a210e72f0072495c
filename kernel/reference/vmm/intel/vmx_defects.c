#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpufunc.h"
#include "defects.h"
#include "vmx_defects.h"
#include "vmx_internal.h"

uint64_t vmx_percpu_dr[MAXCPU][4];

/* Both forms keep %rbp across VM entry; only the first is a frame, and only its first byte is what FBT looks for. */
#define	PROLOGUE_BYTES	4
static const uint8_t prologue_frame[PROLOGUE_BYTES] = { 0x55, 0x48, 0x89, 0xe5 };	/* push %rbp; mov %rsp,%rbp */
static const uint8_t prologue_bare[PROLOGUE_BYTES] = { 0xff, 0xf5, 0x66, 0x90 };	/* push %rbp; nop */

void
vmx_defects_init(void)
{
	const uint8_t *bytes = defect(DEFECT_VMX_FRAME_MISSING) ? prologue_bare : prologue_frame;
	volatile uint8_t *text = (volatile uint8_t *)(uintptr_t)vmx_enter_guest;

	for (int i = 0; i < PROLOGUE_BYTES; i++)
		text[i] = bytes[i];
}

uint32_t
vmx_defective_exceptions(void)
{
	if (defect(DEFECT_VMX_REFLECTED_AS_STEP))
		return (1u << IDT_DB);
	if (defect(DEFECT_VMX_REFLECTED_PAST_INT3))
		return (1u << IDT_BP);
	return (defect(DEFECT_VMX_REFLECTED_WITHOUT_RF) ? 1u << IDT_PF : 0);
}

/* DR0-DR3, DR6, DR7 as 0-3, 6, 7; anything else is -1. */
static int
debug_register(int ident)
{
	switch (ident) {
	case VM_REG_GUEST_DR0:
		return (0);
	case VM_REG_GUEST_DR1:
		return (1);
	case VM_REG_GUEST_DR2:
		return (2);
	case VM_REG_GUEST_DR3:
		return (3);
	case VM_REG_GUEST_DR6:
		return (6);
	case VM_REG_GUEST_DR7:
		return (7);
	default:
		return (-1);
	}
}

bool
vmx_defective_getreg(struct vmx_vcpu *vcpu, int ident, uint64_t *val)
{
	int n = debug_register(ident);

	if (n < 0)
		return (false);
	if (defect(DEFECT_VMX_GETREG_DR_STALE) ||
	    (defect(DEFECT_VMX_SETREG_DR_NOT_LOADED) && (vcpu->set_dr_valid & (1u << n)) != 0)) {
		*val = vcpu->set_dr[n];
		return (true);
	}
	return (false);
}

bool
vmx_defective_setreg(struct vmx_vcpu *vcpu, int ident, uint64_t val)
{
	int n = debug_register(ident);

	if (n < 0)
		return (false);
	vcpu->set_dr[n] = val;
	if (!defect(DEFECT_VMX_SETREG_DR_NOT_LOADED) || vcpu->lastcpu == NOCPU)
		return (false);
	vcpu->set_dr_valid |= 1u << n;
	return (true);
}

/* The debug registers of the last vCPU with a number, as memory that was not cleared would still hold them. */
static uint64_t last_dr[VM_MAXCPU][4];

void
vmx_defective_vcpu_init(struct vmx_vcpu *vcpu)
{
	vcpu->set_dr[6] = DR6_RESET_VALUE;
	vcpu->set_dr[7] = DR7_RESET_VALUE;
	if (!defect(DEFECT_VMX_VCPU_INIT_KEEPS_DR))
		return;
	vcpu->ctx.guest_dr0 = last_dr[vcpu->vcpuid][0];
	vcpu->ctx.guest_dr1 = last_dr[vcpu->vcpuid][1];
	vcpu->ctx.guest_dr2 = last_dr[vcpu->vcpuid][2];
	vcpu->ctx.guest_dr3 = last_dr[vcpu->vcpuid][3];
}

void
vmx_defective_vcpu_cleanup(const struct vmx_vcpu *vcpu)
{
	last_dr[vcpu->vcpuid][0] = vcpu->ctx.guest_dr0;
	last_dr[vcpu->vcpuid][1] = vcpu->ctx.guest_dr1;
	last_dr[vcpu->vcpuid][2] = vcpu->ctx.guest_dr2;
	last_dr[vcpu->vcpuid][3] = vcpu->ctx.guest_dr3;
}

void
vmx_defective_entry(struct vmx_vcpu *vcpu)
{
	if (defect(DEFECT_VMX_GUEST_DR6_RESET))
		vcpu->ctx.guest_dr6 = DR6_RESET_VALUE;
}

void
vmx_defective_exit(struct vmx_vcpu *vcpu, uint32_t reason)
{
	(void)vcpu;
	if (defect(DEFECT_VMX_PENDING_DBG_DROPPED))
		vmcs_write(VMCS_GUEST_PENDING_DBG_EXCEPTIONS, 0);
	if (defect(DEFECT_VMX_CPUID_LOSES_LOCAL) && reason == EXIT_REASON_CPUID)
		vmcs_write(VMCS_GUEST_DR7, vmcs_read(VMCS_GUEST_DR7) & ~(1ull << 4));
	if (defect(DEFECT_VMX_MSR_EXIT_DISARMS) && (reason == EXIT_REASON_RDMSR || reason == EXIT_REASON_WRMSR))
		vmcs_write(VMCS_GUEST_DR7, DR7_RESET_VALUE);
	if (defect(DEFECT_VMX_EXTINT_DISARMS) && reason == EXIT_REASON_EXT_INTR)
		vmcs_write(VMCS_GUEST_DR7, DR7_RESET_VALUE);
}
