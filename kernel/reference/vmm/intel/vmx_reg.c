#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpufunc.h"
#include "defects.h"
#include "vmx_defects.h"
#include "vmx_internal.h"

/* The registers kept in the software context. */
uint64_t *
vmxctx_regptr(struct vmxctx *vmxctx, int reg)
{
	switch (reg) {
	case VM_REG_GUEST_RAX:
		return (&vmxctx->guest_rax);
	case VM_REG_GUEST_RBX:
		return (&vmxctx->guest_rbx);
	case VM_REG_GUEST_RCX:
		return (&vmxctx->guest_rcx);
	case VM_REG_GUEST_RDX:
		return (&vmxctx->guest_rdx);
	case VM_REG_GUEST_RSI:
		return (&vmxctx->guest_rsi);
	case VM_REG_GUEST_RDI:
		return (&vmxctx->guest_rdi);
	case VM_REG_GUEST_RBP:
		return (&vmxctx->guest_rbp);
	case VM_REG_GUEST_R8:
		return (&vmxctx->guest_r8);
	case VM_REG_GUEST_R9:
		return (&vmxctx->guest_r9);
	case VM_REG_GUEST_R10:
		return (&vmxctx->guest_r10);
	case VM_REG_GUEST_R11:
		return (&vmxctx->guest_r11);
	case VM_REG_GUEST_R12:
		return (&vmxctx->guest_r12);
	case VM_REG_GUEST_R13:
		return (&vmxctx->guest_r13);
	case VM_REG_GUEST_R14:
		return (&vmxctx->guest_r14);
	case VM_REG_GUEST_R15:
		return (&vmxctx->guest_r15);
	case VM_REG_GUEST_CR2:
		return (&vmxctx->guest_cr2);
	case VM_REG_GUEST_DR0:
		return (&vmxctx->guest_dr0);
	case VM_REG_GUEST_DR1:
		return (&vmxctx->guest_dr1);
	case VM_REG_GUEST_DR2:
		return (&vmxctx->guest_dr2);
	case VM_REG_GUEST_DR3:
		return (&vmxctx->guest_dr3);
	case VM_REG_GUEST_DR6:
		return (&vmxctx->guest_dr6);
	default:
		return (NULL);
	}
}

static int
numbered_reg(int number)
{
	static const int names[16] = {
		VM_REG_GUEST_RAX, VM_REG_GUEST_RCX, VM_REG_GUEST_RDX, VM_REG_GUEST_RBX, VM_REG_GUEST_RSP,
		VM_REG_GUEST_RBP, VM_REG_GUEST_RSI, VM_REG_GUEST_RDI, VM_REG_GUEST_R8, VM_REG_GUEST_R9,
		VM_REG_GUEST_R10, VM_REG_GUEST_R11, VM_REG_GUEST_R12, VM_REG_GUEST_R13, VM_REG_GUEST_R14,
		VM_REG_GUEST_R15
	};

	return (names[number & 15]);
}

uint64_t
vmx_get_guest_reg(const struct vmx_vcpu *vcpu, int number)
{
	const uint64_t *reg = vmxctx_regptr((struct vmxctx *)(uintptr_t)&vcpu->ctx, numbered_reg(number));

	return (reg != NULL ? *reg : vmcs_read(VMCS_GUEST_RSP));
}

void
vmx_set_guest_reg(struct vmx_vcpu *vcpu, int number, uint64_t val)
{
	uint64_t *reg = vmxctx_regptr(&vcpu->ctx, numbered_reg(number));

	if (reg != NULL)
		*reg = val;
	else
		vmcs_write(VMCS_GUEST_RSP, val);
}

/* 0, or EINVAL for a register or field that this processor does not have. */
int
vmx_getreg(void *vcpui, int ident, uint64_t *val)
{
	struct vmx_vcpu *vcpu = vcpui;
	const uint64_t *reg;
	bool borrowed;
	int error = 0;

	if (vmx_defective_getreg(vcpu, ident, val))
		return (0);
	reg = vmxctx_regptr(&vcpu->ctx, ident);
	if (reg != NULL) {
		*val = *reg;
		return (0);
	}
	borrowed = vmcs_borrow(vcpu);
	if (ident == VM_REG_GUEST_INTR_SHADOW)
		*val = (vmcs_read(VMCS_GUEST_INTERRUPTIBILITY) & HWINTR_BLOCKING) != 0;
	else
		error = vmcs_getreg(ident, val);
	vmcs_give_back(vcpu, borrowed);
	return (error);
}

/* Writes to the VMCS that need more than the one field. */
static int
vmx_setreg_vmcs(struct vmx_vcpu *vcpu, int ident, uint64_t val)
{
	uint64_t ctls;

	switch (ident) {
	case VM_REG_GUEST_INTR_SHADOW:
		/* Only its end can be requested. */
		if (val != 0)
			return (EINVAL);
		vmcs_write(VMCS_GUEST_INTERRUPTIBILITY,
		    vmcs_read(VMCS_GUEST_INTERRUPTIBILITY) & ~(uint64_t)HWINTR_BLOCKING);
		return (0);
	case VM_REG_GUEST_CR0:
		vmcs_write(VMCS_CR0_SHADOW, val);
		return (vmcs_setreg(ident, vmx_fix_cr0(val)));
	case VM_REG_GUEST_CR4:
		vmcs_write(VMCS_CR4_SHADOW, val);
		return (vmcs_setreg(ident, vmx_fix_cr4(val)));
	case VM_REG_GUEST_EFER:
		/* EFER.LMA and the entry control for IA-32e mode must agree. */
		ctls = vmcs_read(VMCS_ENTRY_CTLS) & ~(uint64_t)VM_ENTRY_GUEST_LMA;
		vmcs_write(VMCS_ENTRY_CTLS, ctls | ((val & EFER_LMA) != 0 ? VM_ENTRY_GUEST_LMA : 0));
		return (vmcs_setreg(ident, val));
	case VM_REG_GUEST_CR3:
		/* Translations of the old tables: as if the vCPU came from another CPU. */
		if (vcpu->vpid != 0)
			vcpu->lastcpu = NOCPU;
		return (vmcs_setreg(ident, val));
	default:
		return (vmcs_setreg(ident, val));
	}
}

/*
 * 0, or EINVAL: no such register, one that can only be read, or a value of DR6 or DR7 that has bits 63:32 set. DR6 is
 * loaded by the host itself, where those bits fault; in DR7 they make the VM entry fail.
 */
int
vmx_setreg(void *vcpui, int ident, uint64_t val)
{
	struct vmx_vcpu *vcpu = vcpui;
	uint64_t *reg;
	bool borrowed;
	int error;

	if ((ident == VM_REG_GUEST_DR6 || ident == VM_REG_GUEST_DR7) && val >> 32 != 0 &&
	    !defect(DEFECT_VMX_SETREG_DR_UNCHECKED))
		return (EINVAL);
	if (vmx_defective_setreg(vcpu, ident, val))
		return (0);
	reg = vmxctx_regptr(&vcpu->ctx, ident);
	if (reg != NULL) {
		*reg = val;
		return (0);
	}
	borrowed = vmcs_borrow(vcpu);
	error = vmx_setreg_vmcs(vcpu, ident, val);
	vmcs_give_back(vcpu, borrowed);
	return (error);
}

int
vmx_getdesc(void *vcpui, int reg, struct seg_desc *desc)
{
	const struct vmx_vcpu *vcpu = vcpui;
	bool borrowed = vmcs_borrow(vcpu);
	int error = vmcs_getdesc(reg, desc);

	vmcs_give_back(vcpu, borrowed);
	return (error);
}

int
vmx_setdesc(void *vcpui, int reg, const struct seg_desc *desc)
{
	const struct vmx_vcpu *vcpu = vcpui;
	bool borrowed = vmcs_borrow(vcpu);
	int error = vmcs_setdesc(reg, desc);

	vmcs_give_back(vcpu, borrowed);
	return (error);
}

void
vmx_set_procbased(struct vmx_vcpu *vcpu, uint32_t set, uint32_t clear)
{
	uint32_t ctls = (vcpu->cap.proc_ctls | set) & ~clear;

	if (ctls == vcpu->cap.proc_ctls)
		return;
	vcpu->cap.proc_ctls = ctls;
	vmcs_write(VMCS_PRI_PROC_BASED_CTLS, ctls);
}

int
vmx_getcap(void *vcpui, int type, int *val)
{
	const struct vmx_vcpu *vcpu = vcpui;
	bool available;

	switch (type) {
	case VM_CAP_HALT_EXIT:
		available = vmx_settings.cap_halt_exit;
		break;
	case VM_CAP_PAUSE_EXIT:
		available = vmx_settings.cap_pause_exit;
		break;
	case VM_CAP_MTRAP_EXIT:
		available = vmx_settings.cap_monitor_trap;
		break;
	case VM_CAP_UNRESTRICTED_GUEST:
		available = vmx_settings.cap_unrestricted_guest;
		break;
	case VM_CAP_ENABLE_INVPCID:
		available = vmx_settings.cap_invpcid;
		break;
	case VM_CAP_RDTSCP:
		available = vmx_settings.cap_rdtscp;
		break;
	case VM_CAP_BPT_EXIT:
		available = true;
		break;
	default:
		available = false;
		break;
	}
	if (!available)
		return (ENOENT);
	*val = (vcpu->cap.set & (1u << type)) != 0;
	return (0);
}

static void
set_primary(struct vmx_vcpu *vcpu, uint32_t bit, bool on)
{
	vmx_set_procbased(vcpu, on ? bit : 0, on ? 0 : bit);
}

static void
set_secondary(struct vmx_vcpu *vcpu, uint32_t bit, bool on)
{
	vcpu->cap.proc_ctls2 = on ? vcpu->cap.proc_ctls2 | bit : vcpu->cap.proc_ctls2 & ~bit;
	vmcs_write(VMCS_SEC_PROC_BASED_CTLS, vcpu->cap.proc_ctls2);
}

static int
vmx_setcap_vmcs(struct vmx_vcpu *vcpu, int type, bool on)
{
	switch (type) {
	case VM_CAP_HALT_EXIT:
		set_primary(vcpu, PROCBASED_HLT_EXITING, on);
		return (0);
	case VM_CAP_PAUSE_EXIT:
		set_primary(vcpu, PROCBASED_PAUSE_EXITING, on);
		return (0);
	case VM_CAP_MTRAP_EXIT:
		set_primary(vcpu, PROCBASED_MTF, on);
		return (0);
	case VM_CAP_UNRESTRICTED_GUEST:
		/* The control register masks are made for it: it cannot be switched off. */
		return (on ? 0 : EINVAL);
	case VM_CAP_ENABLE_INVPCID:
		set_secondary(vcpu, PROCBASED2_ENABLE_INVPCID, on);
		return (0);
	case VM_CAP_RDTSCP:
		set_secondary(vcpu, PROCBASED2_ENABLE_RDTSCP, on);
		return (0);
	case VM_CAP_BPT_EXIT:
		vcpu->cap.exc_bitmap = on || vmx_settings.trace_guest_exceptions ?
		    vcpu->cap.exc_bitmap | 1u << IDT_BP : vcpu->cap.exc_bitmap & ~(1u << IDT_BP);
		vmcs_write(VMCS_EXCEPTION_BITMAP, vcpu->cap.exc_bitmap);
		return (0);
	default:
		return (ENOENT);
	}
}

/* 0, EINVAL for a value the capability cannot take, ENOENT for a capability the processor does not have. */
int
vmx_setcap(void *vcpui, int type, int val)
{
	struct vmx_vcpu *vcpu = vcpui;
	bool borrowed;
	int error, old;

	error = vmx_getcap(vcpu, type, &old);
	if (error != 0)
		return (error);
	borrowed = vmcs_borrow(vcpu);
	error = vmx_setcap_vmcs(vcpu, type, val != 0);
	vmcs_give_back(vcpu, borrowed);
	if (error == 0)
		vcpu->cap.set = val != 0 ? vcpu->cap.set | 1u << type : vcpu->cap.set & ~(1u << type);
	return (error);
}
