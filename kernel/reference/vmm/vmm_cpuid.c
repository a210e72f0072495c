/* CPUID as the guest sees it: the processor's own answer without what the guest is not offered. */
#include "cpufunc.h"
#include "vm.h"

#define LEAF_MWAIT		0x5
#define LEAF_THERMAL		0x6
#define LEAF_PERFMON		0xa
#define LEAF_HYPERVISOR		0x40000000
#define LEAF_SVM		0x8000000a

#define CPUID2_MONITOR		(1u << 3)
#define CPUID2_VMX		(1u << 5)
#define CPUID2_SMX		(1u << 6)
#define CPUID2_EST		(1u << 7)
#define CPUID2_TM2		(1u << 8)
#define CPUID2_PDCM		(1u << 15)
#define CPUID2_X2APIC		(1u << 21)
#define CPUID2_TSCDLT		(1u << 24)
#define CPUID2_OSXSAVE		(1u << 27)
#define CPUID2_HV		(1u << 31)
#define CPUID2_HIDDEN		(CPUID2_MONITOR | CPUID2_VMX | CPUID2_SMX | CPUID2_EST | CPUID2_TM2 | CPUID2_PDCM | \
				 CPUID2_X2APIC | CPUID2_TSCDLT | CPUID2_OSXSAVE)
#define AMDID2_SVM		(1u << 2)

static void
leaf_1(struct vcpu *vcpu, uint32_t regs[4])
{
	uint64_t cr4 = 0;

	regs[1] = (regs[1] & 0x0000ffff) | 1u << 16 | (uint32_t)vcpu->vcpuid << 24;
	regs[2] = (regs[2] & ~CPUID2_HIDDEN) | CPUID2_HV;
	(void)vmm_ops->getreg(vcpu->cookie, VM_REG_GUEST_CR4, &cr4);
	if ((cr4 & CR4_OSXSAVE) != 0)
		regs[2] |= CPUID2_OSXSAVE;
}

int
x86_emulate_cpuid(struct vcpu *vcpu, uint64_t *rax, uint64_t *rbx, uint64_t *rcx, uint64_t *rdx)
{
	uint32_t leaf = (uint32_t)*rax, regs[4];

	cpuid_count(leaf, (uint32_t)*rcx, regs);
	switch (leaf) {
	case 1:
		leaf_1(vcpu, regs);
		break;
	case LEAF_MWAIT:
	case LEAF_THERMAL:
	case LEAF_PERFMON:
	case LEAF_SVM:
		regs[0] = regs[1] = regs[2] = regs[3] = 0;
		break;
	case 0x80000001:
		regs[2] &= ~AMDID2_SVM;
		break;
	case LEAF_HYPERVISOR:
		regs[0] = LEAF_HYPERVISOR;
		memcpy(&regs[1], "bhyve bhyve ", 12);
		break;
	}
	*rax = regs[0];
	*rbx = regs[1];
	*rcx = regs[2];
	*rdx = regs[3];
	return (1);
}
