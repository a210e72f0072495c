#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm.h"
#include "svm_defects.h"
#include "svm_internal.h"

/* The registers kept in the software context. */
static uint64_t *
swctx_regptr(struct svm_regctx *regctx, int reg)
{
	switch (reg) {
	case VM_REG_GUEST_RBX:
		return (&regctx->sctx_rbx);
	case VM_REG_GUEST_RCX:
		return (&regctx->sctx_rcx);
	case VM_REG_GUEST_RDX:
		return (&regctx->sctx_rdx);
	case VM_REG_GUEST_RDI:
		return (&regctx->sctx_rdi);
	case VM_REG_GUEST_RSI:
		return (&regctx->sctx_rsi);
	case VM_REG_GUEST_RBP:
		return (&regctx->sctx_rbp);
	case VM_REG_GUEST_R8:
		return (&regctx->sctx_r8);
	case VM_REG_GUEST_R9:
		return (&regctx->sctx_r9);
	case VM_REG_GUEST_R10:
		return (&regctx->sctx_r10);
	case VM_REG_GUEST_R11:
		return (&regctx->sctx_r11);
	case VM_REG_GUEST_R12:
		return (&regctx->sctx_r12);
	case VM_REG_GUEST_R13:
		return (&regctx->sctx_r13);
	case VM_REG_GUEST_R14:
		return (&regctx->sctx_r14);
	case VM_REG_GUEST_R15:
		return (&regctx->sctx_r15);
	case VM_REG_GUEST_DR0:
		return (&regctx->sctx_dr0);
	case VM_REG_GUEST_DR1:
		return (&regctx->sctx_dr1);
	case VM_REG_GUEST_DR2:
		return (&regctx->sctx_dr2);
	case VM_REG_GUEST_DR3:
		return (&regctx->sctx_dr3);
	default:
		return (NULL);
	}
}

/* The interrupt shadow has no clean bit; only its end can be requested. */
static int
svm_modify_intr_shadow(struct svm_vcpu *vcpu, uint64_t val)
{
	if (val != 0)
		return (EINVAL);
	vcpu->vmcb->ctrl.intr_shadow = 0;
	return (0);
}

/* 0, or EINVAL for a register this processor does not have. */
int
svm_getreg(void *vcpui, int ident, uint64_t *val)
{
	struct svm_vcpu *vcpu = vcpui;
	const uint64_t *reg;

	if (svm_defective_getreg(vcpu, ident, val))
		return (0);
	if (ident == VM_REG_GUEST_INTR_SHADOW) {
		*val = vcpu->vmcb->ctrl.intr_shadow & 1;
		return (0);
	}
	if (vmcb_read(vcpu, ident, val) == 0)
		return (0);
	reg = swctx_regptr(&vcpu->swctx, ident);
	if (reg == NULL)
		return (EINVAL);
	*val = *reg;
	return (0);
}

int
svm_setreg(void *vcpui, int ident, uint64_t val)
{
	struct svm_vcpu *vcpu = vcpui;
	uint64_t *reg;

	if (svm_defective_setreg(vcpu, ident, val))
		return (0);
	if (ident == VM_REG_GUEST_INTR_SHADOW)
		return (svm_modify_intr_shadow(vcpu, val));
	if (vmcb_write(vcpu, ident, val) == 0)
		return (0);
	reg = swctx_regptr(&vcpu->swctx, ident);
	if (reg == NULL)
		return (EINVAL);
	*reg = val;
	return (0);
}
