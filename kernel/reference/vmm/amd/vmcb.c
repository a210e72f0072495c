#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm.h"
#include "cpufunc.h"
#include "defects.h"
#include "svm_softc.h"
#include "vmcb.h"

/*
 * The one place that changes fields with a clean bit. Every function here that stores into such a field calls
 * svm_set_dirty() with the field's group, so no path can leave a stale copy in the processor.
 */

#define	EFER_SVME	(1ull << 12)
#define	PAT_RESET	0x0007040600070406ull	/* WB, WT, UC-, UC; twice */

/* Where a register lives in the VMCB, and the clean bit it belongs to. */
struct vmcb_slot {
	uint64_t *field;
	uint32_t group;
};

static struct vmcb_slot
vmcb_register(struct svm_vcpu *vcpu, int ident)
{
	struct vmcb_state *state = &vcpu->vmcb->state;

	switch (ident) {
	case VM_REG_GUEST_CR0:
		return ((struct vmcb_slot){ &state->cr0, VMCB_CACHE_CR });
	case VM_REG_GUEST_CR2:
		return ((struct vmcb_slot){ &state->cr2, VMCB_CACHE_CR2 });
	case VM_REG_GUEST_CR3:
		return ((struct vmcb_slot){ &state->cr3, VMCB_CACHE_CR });
	case VM_REG_GUEST_CR4:
		return ((struct vmcb_slot){ &state->cr4, VMCB_CACHE_CR });
	case VM_REG_GUEST_EFER:
		return ((struct vmcb_slot){ &state->efer, VMCB_CACHE_CR });
	case VM_REG_GUEST_DR6:
		return ((struct vmcb_slot){ &state->dr6, VMCB_CACHE_DR });
	case VM_REG_GUEST_DR7:
		return ((struct vmcb_slot){ &state->dr7, VMCB_CACHE_DR });
	case VM_REG_GUEST_RAX:
		return ((struct vmcb_slot){ &state->rax, VMCB_CACHE_NONE });
	case VM_REG_GUEST_RFLAGS:
		return ((struct vmcb_slot){ &state->rflags, VMCB_CACHE_NONE });
	case VM_REG_GUEST_RIP:
		return ((struct vmcb_slot){ &state->rip, VMCB_CACHE_NONE });
	case VM_REG_GUEST_RSP:
		return ((struct vmcb_slot){ &state->rsp, VMCB_CACHE_NONE });
	default:
		return ((struct vmcb_slot){ NULL, VMCB_CACHE_NONE });
	}
}

static struct vmcb_segment *
vmcb_seg(struct svm_vcpu *vcpu, int reg, uint32_t *group)
{
	struct vmcb_state *state = &vcpu->vmcb->state;

	*group = VMCB_CACHE_NONE;
	switch (reg) {
	case VM_REG_GUEST_CS:
		*group = VMCB_CACHE_SEG;
		return (&state->cs);
	case VM_REG_GUEST_DS:
		*group = VMCB_CACHE_SEG;
		return (&state->ds);
	case VM_REG_GUEST_ES:
		*group = VMCB_CACHE_SEG;
		return (&state->es);
	case VM_REG_GUEST_SS:
		*group = VMCB_CACHE_SEG;
		return (&state->ss);
	case VM_REG_GUEST_GDTR:
		*group = VMCB_CACHE_DT;
		return (&state->gdt);
	case VM_REG_GUEST_IDTR:
		*group = VMCB_CACHE_DT;
		return (&state->idt);
	case VM_REG_GUEST_FS:		/* these four travel with VMLOAD and VMSAVE */
		return (&state->fs);
	case VM_REG_GUEST_GS:
		return (&state->gs);
	case VM_REG_GUEST_LDTR:
		return (&state->ldt);
	case VM_REG_GUEST_TR:
		return (&state->tr);
	default:
		return (NULL);
	}
}

/* A raw field of 1, 2, 4 or 8 bytes, wholly inside the page. */
static int
vmcb_access(struct svm_vcpu *vcpu, int ident, uint64_t *val)
{
	uint32_t offset = VMCB_ACCESS_OFFSET(ident);
	uint32_t bytes = VMCB_ACCESS_BYTES(ident);
	const uint8_t *page = (const uint8_t *)vcpu->vmcb;

	if ((bytes != 1 && bytes != 2 && bytes != 4 && bytes != 8) || offset + bytes > sizeof(struct vmcb))
		return (EINVAL);
	*val = 0;
	for (uint32_t i = 0; i < bytes; i++)
		*val |= (uint64_t)page[offset + i] << (8 * i);
	return (0);
}

int
vmcb_read(struct svm_vcpu *vcpu, int ident, uint64_t *val)
{
	struct vmcb_slot slot;
	struct vmcb_segment *seg;
	uint32_t group;

	if (ident < 0)
		return (vmcb_access(vcpu, ident, val));
	slot = vmcb_register(vcpu, ident);
	if (slot.field != NULL) {
		*val = *slot.field;
		return (0);
	}
	seg = vmcb_seg(vcpu, ident, &group);
	if (seg == NULL || ident == VM_REG_GUEST_GDTR || ident == VM_REG_GUEST_IDTR)
		return (EINVAL);
	*val = seg->selector;
	return (0);
}

int
vmcb_write(struct svm_vcpu *vcpu, int ident, uint64_t val)
{
	struct vmcb_slot slot;
	struct vmcb_segment *seg;
	uint32_t group;

	if (ident < 0)
		return (EINVAL);
	slot = vmcb_register(vcpu, ident);
	if (slot.field != NULL) {
		/* VMRUN refuses a guest whose EFER.SVME is clear. */
		*slot.field = ident == VM_REG_GUEST_EFER ? val | EFER_SVME : val;
		if (!(defect(DEFECT_SVM_DR6_UNMARKED) && ident == VM_REG_GUEST_DR6) &&
		    !(defect(DEFECT_SVM_CR4_UNMARKED) && ident == VM_REG_GUEST_CR4))
			svm_set_dirty(vcpu, slot.group);
		return (0);
	}
	seg = vmcb_seg(vcpu, ident, &group);
	if (seg == NULL || ident == VM_REG_GUEST_GDTR || ident == VM_REG_GUEST_IDTR)
		return (EINVAL);
	seg->selector = (uint16_t)val;
	svm_set_dirty(vcpu, group);
	return (0);
}

/*
 * A descriptor's access rights are those of VT-x (bits 7:0 and 15:12, bit 16 = unusable), the VMCB packs them into
 * twelve bits and knows "unusable" as a cleared present bit.
 */
int
vmcb_getdesc(struct svm_vcpu *vcpu, int reg, struct seg_desc *desc)
{
	uint32_t group;
	struct vmcb_segment *seg = vmcb_seg(vcpu, reg, &group);

	if (seg == NULL)
		return (EINVAL);
	desc->base = seg->base;
	desc->limit = seg->limit;
	desc->access = 0;
	if (reg == VM_REG_GUEST_GDTR || reg == VM_REG_GUEST_IDTR)
		return (0);
	desc->access = (seg->attrib & 0xffu) | ((seg->attrib & 0xf00u) << 4);
	if (reg != VM_REG_GUEST_CS && reg != VM_REG_GUEST_TR && (desc->access & 0x80) == 0)
		desc->access |= 0x10000;
	return (0);
}

int
vmcb_setdesc(struct svm_vcpu *vcpu, int reg, const struct seg_desc *desc)
{
	uint32_t group;
	struct vmcb_segment *seg = vmcb_seg(vcpu, reg, &group);

	if (seg == NULL)
		return (EINVAL);
	seg->base = desc->base;
	seg->limit = desc->limit;
	if (reg != VM_REG_GUEST_GDTR && reg != VM_REG_GUEST_IDTR) {
		seg->attrib = (uint16_t)(((desc->access >> 4) & 0xf00) | (desc->access & 0xff));
		if ((desc->access & 0x10000) != 0)
			seg->attrib &= (uint16_t)~0x80;
		/* VMRUN takes the privilege level from its own field; SS.DPL is where it belongs. */
		if (reg == VM_REG_GUEST_SS)
			vcpu->vmcb->state.cpl = (seg->attrib >> 5) & 3;
	}
	if (!defect(DEFECT_SVM_SETDESC_UNMARKED) &&
	    !(defect(DEFECT_SVM_IDTR_UNMARKED) && reg == VM_REG_GUEST_IDTR))
		svm_set_dirty(vcpu, group);
	return (0);
}

void
vmcb_set_intercept(struct svm_vcpu *vcpu, enum vmcb_intercept_word word, uint32_t mask, int enable)
{
	uint32_t *vector = &vcpu->vmcb->ctrl.intercept[word];
	uint32_t val = enable ? *vector | mask : *vector & ~mask;

	if (val == *vector)
		return;
	*vector = val;
	svm_set_dirty(vcpu, VMCB_CACHE_I);
}

void
vmcb_set_tsc_offset(struct svm_vcpu *vcpu, uint64_t offset)
{
	if (vcpu->vmcb->ctrl.tsc_offset == offset)
		return;
	vcpu->vmcb->ctrl.tsc_offset = offset;
	svm_set_dirty(vcpu, VMCB_CACHE_I);
}

void
vmcb_set_asid(struct svm_vcpu *vcpu, uint32_t asid)
{
	vcpu->vmcb->ctrl.asid = asid;
	svm_set_dirty(vcpu, VMCB_CACHE_ASID);
}

void
vmcb_set_v_tpr(struct svm_vcpu *vcpu, uint8_t v_tpr)
{
	if (vcpu->vmcb->ctrl.v_tpr == v_tpr)
		return;
	vcpu->vmcb->ctrl.v_tpr = v_tpr;
	svm_set_dirty(vcpu, VMCB_CACHE_TPR);
}

/* A pending virtual interrupt that ignores the TPR makes the guest exit as soon as it could take one. */
void
vmcb_set_v_irq(struct svm_vcpu *vcpu, int pending)
{
	struct vmcb_ctrl *ctrl = &vcpu->vmcb->ctrl;

	ctrl->v_irq = pending != 0;
	ctrl->v_ign_tpr = pending != 0;
	ctrl->v_intr_vector = 0;
	svm_set_dirty(vcpu, VMCB_CACHE_TPR);
}

void
vmcb_init(struct svm_vcpu *vcpu, uint64_t iopm_pa, uint64_t msrpm_pa, uint64_t n_cr3)
{
	struct vmcb_ctrl *ctrl = &vcpu->vmcb->ctrl;
	struct vmcb_state *state = &vcpu->vmcb->state;

	ctrl->iopm_base_pa = iopm_pa;
	ctrl->msrpm_base_pa = msrpm_pa;
	ctrl->np_enable = 1;
	ctrl->n_cr3 = n_cr3;

	/* CR1, CR5-CR7, CR9-CR15 do not exist; nested paging leaves CR0, CR2, CR3 and CR4 to the guest, V_TPR CR8. */
	for (unsigned n = 0; n < 16; n++) {
		uint32_t mask = (1u << (n + 16)) | (1u << n);

		vmcb_set_intercept(vcpu, VMCB_CR_INTERCEPT, mask, !(n == 0 || n == 2 || n == 3 || n == 4 || n == 8));
	}
	/* No DR intercept and no #DB intercept: the guest works on the debug registers themselves. */
	vmcb_set_intercept(vcpu, VMCB_DR_INTERCEPT, 0xffffffff, defect(DEFECT_SVM_DR_INTERCEPT));
	vmcb_set_intercept(vcpu, VMCB_EXC_INTERCEPT, 1u << 18, 1);
	vmcb_set_intercept(vcpu, VMCB_CTRL1_INTERCEPT,
	    VMCB_INTCPT_INTR | VMCB_INTCPT_NMI | VMCB_INTCPT_SMI | VMCB_INTCPT_INIT | VMCB_INTCPT_CPUID |
	    VMCB_INTCPT_INVD | VMCB_INTCPT_INVLPGA | VMCB_INTCPT_IO | VMCB_INTCPT_MSR | VMCB_INTCPT_FERR_FREEZE |
	    VMCB_INTCPT_SHUTDOWN, 1);
	/* SVM inside the guest is not offered, and ICEBP is answered with #UD. */
	vmcb_set_intercept(vcpu, VMCB_CTRL2_INTERCEPT,
	    VMCB_INTCPT_VMRUN | VMCB_INTCPT_VMLOAD | VMCB_INTCPT_VMSAVE | VMCB_INTCPT_STGI | VMCB_INTCPT_CLGI |
	    VMCB_INTCPT_SKINIT | VMCB_INTCPT_ICEBP | VMCB_INTCPT_MONITOR | VMCB_INTCPT_MWAIT, 1);

	/* The guest's IF and CR8 act on virtual interrupts only. */
	ctrl->v_intr_masking = 1;

	/* DEBUGCTL is switched by the processor where it virtualises branch recording. */
	ctrl->lbr_virt_en = 1;
	state->dbgctl = 1;

	state->efer = EFER_SVME;
	state->g_pat = PAT_RESET;
	state->dr6 = DR6_RESET_VALUE;
	state->dr7 = DR7_RESET_VALUE;
}
