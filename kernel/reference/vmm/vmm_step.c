/*
 * One instruction of a guest for the debug stub, unseen by the guest: by the monitor trap where there is one, else by
 * RFLAGS.TF with #DB intercepted. What the borrowed TF got into - images of RFLAGS, DR6 - is put right afterwards. A
 * fault, or INT n, under the step still pushes the borrowed TF.
 */
#include "cpufunc.h"
#include "defects.h"
#include "vm.h"
#include "vmm_internal.h"

#define CR0_PAGING	(1ull << 31)
#define DR6_STEP	(1ull << 14)

static void
paging_info(struct vcpu *vcpu, struct vm_guest_paging *paging)
{
	uint64_t cr0 = 0, efer = 0;

	memset(paging, 0, sizeof(*paging));
	(void)vm_get_register(vcpu, VM_REG_GUEST_CR0, &cr0);
	(void)vm_get_register(vcpu, VM_REG_GUEST_EFER, &efer);
	(void)vm_get_register(vcpu, VM_REG_GUEST_CR3, &paging->cr3);
	paging->paging_mode = (cr0 & CR0_PAGING) == 0 ? PAGING_MODE_FLAT :
	    (efer & EFER_LMA) != 0 ? PAGING_MODE_64 : PAGING_MODE_32;
}

static uint8_t
code_byte(struct vcpu *vcpu, const struct vm_guest_paging *paging, uint64_t at)
{
	const uint8_t *byte = vm_linear_byte(vcpu, paging, at, false);

	return (byte == NULL ? 0 : *byte);
}

/* What the instruction does with RFLAGS. */
static enum step_kind
step_kind(struct vcpu *vcpu)
{
	struct vm_guest_paging paging;
	struct seg_desc cs = { 0 };
	uint64_t rip = 0;
	uint8_t byte;

	paging_info(vcpu, &paging);
	(void)vm_get_register(vcpu, VM_REG_GUEST_RIP, &rip);
	(void)vm_get_desc(vcpu, VM_REG_GUEST_CS, &cs);
	rip += (cs.access & 0x2000) != 0 ? 0 : cs.base;
	while ((byte = code_byte(vcpu, &paging, rip)) == 0x66 || (byte & 0xf8) == 0x48)
		rip++;
	if (byte == 0x9c)
		return (STEP_STORES);
	if (byte == 0x9d || byte == 0xcf)
		return (STEP_LOADS);
	return (byte == 0x0f && code_byte(vcpu, &paging, rip + 1) == 0x05 ? STEP_SYSCALL : STEP_PLAIN);
}

/* 0, or ENOENT where neither way of stepping exists. */
int
vm_step_begin(struct vcpu *vcpu)
{
	uint64_t rflags = 0;

	if (vm_set_capability(vcpu, VM_CAP_MTRAP_EXIT, 1) != 0) {
		vcpu->step_kind = step_kind(vcpu);
		(void)vm_get_register(vcpu, VM_REG_GUEST_RFLAGS, &rflags);
		(void)vm_get_register(vcpu, VM_REG_GUEST_DR6, &vcpu->step_dr6);
		vcpu->step_tf = (rflags & PSL_T) != 0;
		if (vm_set_capability(vcpu, VM_CAP_RFLAGS_TF, 1) != 0)
			return (ENOENT);
		(void)vm_set_register(vcpu, VM_REG_GUEST_RFLAGS, rflags | PSL_T);
	}
	/* An interrupt that is due would have the step end in its handler. */
	vcpu->mask_hwintr = true;
	return (0);
}

uint8_t *
vm_guest_byte(struct vcpu *vcpu, uint64_t gla, bool write)
{
	struct vm_guest_paging paging;

	paging_info(vcpu, &paging);
	return (paging.paging_mode == PAGING_MODE_64 ? vm_linear_byte(vcpu, &paging, gla, write) : NULL);
}

static void
hide_pushed(struct vcpu *vcpu)
{
	struct vm_guest_paging paging;
	uint64_t rsp = 0;
	uint8_t *byte;

	if (defect(DEFECT_SVM_STEP_IN_PUSHF))
		return;
	paging_info(vcpu, &paging);
	(void)vm_get_register(vcpu, VM_REG_GUEST_RSP, &rsp);
	byte = vm_linear_byte(vcpu, &paging, rsp + 1, true);
	if (byte != NULL)
		*byte &= (uint8_t)~(PSL_T >> 8);
}

/* Causes of the guest's own among those of the #DB that ended the step. */
static uint64_t
own_causes(struct vcpu *vcpu, uint64_t dr6)
{
	uint64_t dr7 = 0, own = vcpu->step_tf ? DR6_STEP : 0;

	(void)vm_get_register(vcpu, VM_REG_GUEST_DR7, &dr7);
	for (int n = 0; n < 4; n++)
		if ((dr7 >> 2 * n & 3) != 0)
			own |= dr6 & (1ull << n);
	return (own);
}

/* The step that vm_step_begin() began is over: nothing of it stays with the vCPU. */
void
vm_step_end(struct vcpu *vcpu)
{
	uint64_t rflags = 0, dr6 = 0, r11 = 0, own;

	vcpu->mask_hwintr = false;
	if (vcpu->exitinfo.exitcode == VM_EXITCODE_MTRAP) {
		(void)vm_set_capability(vcpu, VM_CAP_MTRAP_EXIT, 0);
		return;
	}
	(void)vm_set_capability(vcpu, VM_CAP_RFLAGS_TF, 0);
	(void)vm_get_register(vcpu, VM_REG_GUEST_RFLAGS, &rflags);
	(void)vm_get_register(vcpu, VM_REG_GUEST_DR6, &dr6);
	if (!vcpu->step_tf) {
		/* What IRET and POPF loaded is the guest's. */
		if (vcpu->step_kind != STEP_LOADS)
			(void)vm_set_register(vcpu, VM_REG_GUEST_RFLAGS, rflags & ~(uint64_t)PSL_T);
		if (vcpu->step_kind == STEP_STORES)
			hide_pushed(vcpu);
		if (vcpu->step_kind == STEP_SYSCALL) {
			(void)vm_get_register(vcpu, VM_REG_GUEST_R11, &r11);
			(void)vm_set_register(vcpu, VM_REG_GUEST_R11, r11 & ~(uint64_t)PSL_T);
		}
	}
	own = own_causes(vcpu, dr6);
	(void)vm_set_register(vcpu, VM_REG_GUEST_DR6, own != 0 ? (dr6 & ~DR6_STEP) | own : vcpu->step_dr6);
	if (own != 0)
		vm_inject_exception(vcpu, IDT_DB, false, 0);
}
