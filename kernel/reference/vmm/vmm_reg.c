/* Registers, capabilities and statistics of a vCPU, and its reset. The vCPU is not running. */
#include "cpufunc.h"
#include "defects.h"
#include "vmm_internal.h"

int
vm_get_register(struct vcpu *vcpu, int reg, uint64_t *value)
{
	if (reg >= VM_REG_LAST)
		return (EINVAL);
	return (vmm_ops->getreg(vcpu->cookie, reg, value));
}

int
vm_set_register(struct vcpu *vcpu, int reg, uint64_t value)
{
	int error;

	if (reg < 0 || reg >= VM_REG_LAST)
		return (EINVAL);
	error = vmm_ops->setreg(vcpu->cookie, reg, value);
	if (error == 0 && reg == VM_REG_GUEST_RIP)
		vcpu->nextrip = value;
	return (error);
}

int
vm_get_desc(struct vcpu *vcpu, int reg, struct seg_desc *desc)
{
	return (vmm_ops->getdesc(vcpu->cookie, reg, desc));
}

int
vm_set_desc(struct vcpu *vcpu, int reg, const struct seg_desc *desc)
{
	return (vmm_ops->setdesc(vcpu->cookie, reg, desc));
}

int
vm_set_capability(struct vcpu *vcpu, int cap, int value)
{
	return (vmm_ops->setcap(vcpu->cookie, cap, value));
}

int
vm_get_capability(struct vcpu *vcpu, int cap, int *value)
{
	return (vmm_ops->getcap(vcpu->cookie, cap, value));
}

int
vmm_set_halt_pause(struct vcpu *vcpu, bool halt, bool pause)
{
	int error = vm_set_capability(vcpu, VM_CAP_HALT_EXIT, halt);

	return (error != 0 ? error : vm_set_capability(vcpu, VM_CAP_PAUSE_EXIT, pause));
}

static const struct {
	int reg;
	uint16_t selector;
	struct seg_desc desc;
} reset_segments[] = {
	{ VM_REG_GUEST_CS, 0xf000, { 0xffff0000, 0xffff, 0x93 } },
	{ VM_REG_GUEST_SS, 0, { 0, 0xffff, 0x93 } },
	{ VM_REG_GUEST_DS, 0, { 0, 0xffff, 0x93 } },
	{ VM_REG_GUEST_ES, 0, { 0, 0xffff, 0x93 } },
	{ VM_REG_GUEST_FS, 0, { 0, 0xffff, 0x93 } },
	{ VM_REG_GUEST_GS, 0, { 0, 0xffff, 0x93 } },
	{ VM_REG_GUEST_TR, 0, { 0, 0xffff, 0x8b } },
	{ VM_REG_GUEST_LDTR, 0, { 0, 0xffff, 0x82 } },
};

/* The architectural reset state, written register by register as FreeBSD's libvmmapi does it (SDM 9.1.1). */
int
vcpu_reset(struct vcpu *vcpu)
{
	struct seg_desc table = { 0, 0xffff, 0 };
	int error = 0;

	vlapic_reset(vcpu->vlapic);
	vcpu->exitintinfo = 0;
	vcpu->exception_pending = false;
	vcpu->nmi_pending = false;
	error |= vm_set_register(vcpu, VM_REG_GUEST_RFLAGS, 2);
	error |= vm_set_register(vcpu, VM_REG_GUEST_RIP, 0xfff0);
	error |= vm_set_register(vcpu, VM_REG_GUEST_CR0, 0x20);
	error |= vm_set_register(vcpu, VM_REG_GUEST_CR2, 0);
	error |= vm_set_register(vcpu, VM_REG_GUEST_CR3, 0);
	error |= vm_set_register(vcpu, VM_REG_GUEST_CR4, 0);
	error |= vm_set_register(vcpu, VM_REG_GUEST_EFER, 0);
	for (int reg = VM_REG_GUEST_RAX; reg <= VM_REG_GUEST_R15; reg++)
		error |= vm_set_register(vcpu, reg, reg == VM_REG_GUEST_RDX ? 0xf00 : 0);
	error |= vm_set_register(vcpu, VM_REG_GUEST_RSP, 0);
	for (unsigned n = 0; n < sizeof(reset_segments) / sizeof(reset_segments[0]); n++) {
		error |= vm_set_desc(vcpu, reset_segments[n].reg, &reset_segments[n].desc);
		error |= vm_set_register(vcpu, reset_segments[n].reg, reset_segments[n].selector);
	}
	error |= vm_set_desc(vcpu, VM_REG_GUEST_GDTR, &table);
	error |= vm_set_desc(vcpu, VM_REG_GUEST_IDTR, &table);
	error |= vm_set_register(vcpu, VM_REG_GUEST_DR6,
	    defect(DEFECT_CORE_RESET_DR6_SET) ? 0xffffffff : DR6_RESET_VALUE);
	error |= vm_set_register(vcpu, VM_REG_GUEST_DR7,
	    DR7_RESET_VALUE | (defect(DEFECT_CORE_RESET_DR7_EXACT) ? 0x300 : 0));	/* LE and GE */
	error |= vm_set_register(vcpu, VM_REG_GUEST_INTR_SHADOW, 0);
	return (error);
}

/* INIT of a processor that ran: as at power-up, DR0-DR3 too (SDM 9.1.1, table 9-1). */
int
vcpu_init_ipi(struct vcpu *vcpu)
{
	uint64_t dr6 = DR6_RESET_VALUE, dr7 = DR7_RESET_VALUE;
	int error;

	if (defect(DEFECT_CORE_INIT_KEEPS_DR6))
		(void)vm_get_register(vcpu, VM_REG_GUEST_DR6, &dr6);
	if (defect(DEFECT_CORE_INIT_KEEPS_DR7))
		(void)vm_get_register(vcpu, VM_REG_GUEST_DR7, &dr7);
	error = vcpu_reset(vcpu);
	for (int reg = VM_REG_GUEST_DR0; reg <= VM_REG_GUEST_DR3 && !defect(DEFECT_CORE_INIT_KEEPS_DR); reg++)
		error |= vm_set_register(vcpu, reg, 0);
	error |= vm_set_register(vcpu, VM_REG_GUEST_DR6, dr6);
	error |= vm_set_register(vcpu, VM_REG_GUEST_DR7, dr7);
	vcpu->init = false;
	return (error);
}

static const struct { const char *text; enum vmm_stat_scope scope; } stat_texts[] = {
#define X(symbol, text, scope) { text, scope },
	VMM_STATS(X)
#undef X
};

/* The text bhyvectl prints, or NULL for a statistic that this vendor's module does not have. */
const char *
vmm_stat_name(enum vmm_stat stat)
{
	enum vmm_stat_scope scope = stat_texts[stat].scope;

	if (scope != STAT_ALL && (scope == STAT_AMD) != (vmm_ops == &vmm_ops_amd))
		return (NULL);
	return (stat_texts[stat].text);
}
