#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm.h"
#include "cpufunc.h"
#include "defects.h"
#include "svm_assym.h"
#include "svm_defects.h"
#include "svm_softc.h"
#include "svm_internal.h"

extern uint32_t svm_launch_defects;

struct launch_defect {
	int id;
	uint32_t bit;
};

static const struct launch_defect launch_defects[] = {
	{ DEFECT_SVM_GSBASE_BY_CALLER, LAUNCH_GSBASE_BY_CALLER },
	{ DEFECT_SVM_CALLEE_SAVED_LOST, LAUNCH_CALLEE_SAVED_LOST },
	{ DEFECT_SVM_RBP_LOST, LAUNCH_RBP_LOST },
	{ DEFECT_SVM_HOST_CTX_SHARED, LAUNCH_HOST_CTX_SHARED },
	{ DEFECT_SVM_SELECTORS_RELOADED, LAUNCH_SELECTORS_RELOADED },
};

/* Both forms keep %rbp across VMRUN; only the first is a frame, and only its first byte is what FBT looks for. */
#define PROLOGUE_BYTES	4
static const uint8_t prologue_frame[PROLOGUE_BYTES] = { 0x55, 0x48, 0x89, 0xe5 };	/* push %rbp; mov %rsp,%rbp */
static const uint8_t prologue_bare[PROLOGUE_BYTES] = { 0xff, 0xf5, 0x66, 0x90 };	/* push %rbp; nop */

static void
set_prologue(const uint8_t *bytes)
{
	volatile uint8_t *text = (volatile uint8_t *)(uintptr_t)svm_launch;

	for (int i = 0; i < PROLOGUE_BYTES; i++)
		text[i] = bytes[i];
}

void
svm_defects_init(void)
{
	svm_launch_defects = 0;
	for (size_t i = 0; i < sizeof(launch_defects) / sizeof(launch_defects[0]); i++) {
		if (defect(launch_defects[i].id))
			svm_launch_defects |= launch_defects[i].bit;
	}
	set_prologue(defect(DEFECT_SVM_FRAME_MISSING) ? prologue_bare : prologue_frame);
}

struct group_defect {
	int id;
	uint32_t group;
};

/*
 * Groups whose missing mark shows when the hypervisor changes them. The permission maps and nested paging never change
 * after the first run: their defects are at that (svm_run()). A stale ASID shows in no register, but to a probe on the
 * entry.
 */
static const struct group_defect group_defects[] = {
	{ DEFECT_SVM_CLEAN_I, VMCB_CACHE_I },
	{ DEFECT_SVM_CLEAN_ASID, VMCB_CACHE_ASID },
	{ DEFECT_SVM_CLEAN_TPR, VMCB_CACHE_TPR },
	{ DEFECT_SVM_CLEAN_CR, VMCB_CACHE_CR },
	{ DEFECT_SVM_CLEAN_DR, VMCB_CACHE_DR },
	{ DEFECT_SVM_CLEAN_DT, VMCB_CACHE_DT },
	{ DEFECT_SVM_CLEAN_SEG, VMCB_CACHE_SEG },
	{ DEFECT_SVM_CLEAN_CR2, VMCB_CACHE_CR2 },
};

uint32_t
svm_defective_dirty(uint32_t dirtybits)
{
	if (dirtybits == VMCB_CACHE_ALL)
		return (dirtybits);
	for (size_t i = 0; i < sizeof(group_defects) / sizeof(group_defects[0]); i++) {
		if (defect(group_defects[i].id))
			dirtybits &= ~group_defects[i].group;
	}
	return (dirtybits);
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
svm_defective_getreg(struct svm_vcpu *vcpu, int ident, uint64_t *val)
{
	int n = debug_register(ident);

	if (n < 0)
		return (false);
	if (defect(DEFECT_SVM_GETREG_DR_STALE) ||
	    (defect(DEFECT_SVM_SETREG_DR_NOT_LOADED) && (vcpu->set_dr_valid & (1u << n)) != 0)) {
		*val = vcpu->set_dr[n];
		return (true);
	}
	return (false);
}

bool
svm_defective_setreg(struct svm_vcpu *vcpu, int ident, uint64_t val)
{
	int n = debug_register(ident);

	if (n < 0)
		return (false);
	vcpu->set_dr[n] = val;
	if (!defect(DEFECT_SVM_SETREG_DR_NOT_LOADED) || vcpu->lastcpu == NOCPU)
		return (false);
	vcpu->set_dr_valid |= 1u << n;
	return (true);
}

/* The debug registers of the last vCPU with a number, as memory that was not cleared would still hold them. */
static uint64_t last_dr[VM_MAXCPU][4];

void
svm_defective_vcpu_init(struct svm_vcpu *vcpu)
{
	vcpu->set_dr[6] = DR6_RESET_VALUE;
	vcpu->set_dr[7] = DR7_RESET_VALUE;
	if (!defect(DEFECT_SVM_VCPU_INIT_KEEPS_DR))
		return;
	vcpu->swctx.sctx_dr0 = last_dr[vcpu->vcpuid][0];
	vcpu->swctx.sctx_dr1 = last_dr[vcpu->vcpuid][1];
	vcpu->swctx.sctx_dr2 = last_dr[vcpu->vcpuid][2];
	vcpu->swctx.sctx_dr3 = last_dr[vcpu->vcpuid][3];
}

void
svm_defective_vcpu_cleanup(const struct svm_vcpu *vcpu)
{
	last_dr[vcpu->vcpuid][0] = vcpu->swctx.sctx_dr0;
	last_dr[vcpu->vcpuid][1] = vcpu->swctx.sctx_dr1;
	last_dr[vcpu->vcpuid][2] = vcpu->swctx.sctx_dr2;
	last_dr[vcpu->vcpuid][3] = vcpu->swctx.sctx_dr3;
}

/* Behind every exit, when the VMCB holds what the guest left. */
void
svm_defective_exit(struct svm_vcpu *vcpu)
{
	struct vmcb *vmcb = vcpu->vmcb;

	if (defect(DEFECT_SVM_GUEST_DR6_BT_LOST) && (vmcb->state.dr6 & (1u << 15)) != 0) {
		vmcb->state.dr6 &= ~(1ull << 15);
		vcpu->dirty |= VMCB_CACHE_DR;
	}
	if (defect(DEFECT_SVM_HLT_DISARMS_DR3) && vmcb->ctrl.exitcode == VMCB_EXIT_HLT) {
		vmcb->state.dr7 &= ~(3ull << 6);
		vcpu->dirty |= VMCB_CACHE_DR;
	}
}

void
svm_defective_entry(struct svm_vcpu *vcpu)
{
	struct vmcb *vmcb = vcpu->vmcb;

	/* The exit code is that of the last exit. */
	if (defect(DEFECT_SVM_IO_CLEAN) && vmcb->ctrl.exitcode == VMCB_EXIT_IO)
		vmcb->ctrl.vmcb_clean |= svm_clean_mask() & (VMCB_CACHE_DR | VMCB_CACHE_CR);

	if (defect(DEFECT_SVM_CPUID_CLEAN) && vmcb->ctrl.exitcode == VMCB_EXIT_CPUID)
		vmcb->ctrl.vmcb_clean = svm_clean_mask();

	if (defect(DEFECT_SVM_GUEST_DR6_RESET)) {
		vmcb->state.dr6 = DR6_RESET_VALUE;
		vmcb->ctrl.vmcb_clean &= ~VMCB_CACHE_DR;
	}
	if (defect(DEFECT_SVM_GUEST_DR7_RESET)) {
		vmcb->state.dr7 = DR7_RESET_VALUE;
		vmcb->ctrl.vmcb_clean &= ~VMCB_CACHE_DR;
	}
}
