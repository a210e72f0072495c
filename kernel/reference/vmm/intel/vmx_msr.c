#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpufunc.h"
#include "defects.h"
#include "vmx_internal.h"

#define	MSR_IA32_MISC_ENABLE	0x1a0
#define	PAT_RESET_VALUE		0x0007040600070406ull

/*
 * MSRs that a guest reaches directly and that neither VM entry nor VM exit switches: loaded by hand around the stay
 * in vmx_run(). Their host values are the same on all CPUs.
 */
static const uint32_t switched[] = {
	[IDX_MSR_LSTAR] = MSR_LSTAR,
	[IDX_MSR_CSTAR] = MSR_CSTAR,
	[IDX_MSR_STAR] = MSR_STAR,
	[IDX_MSR_SF_MASK] = MSR_SF_MASK,
	[IDX_MSR_KGSBASE] = MSR_KGSBASE,
};
#define	SWITCHED	(sizeof(switched) / sizeof(switched[0]))
static uint64_t host_msrs[SWITCHED];

/* The MSR bitmap: four parts of 1 KiB - read low, read high, write low, write high; 1 = exit (SDM volume 3, 25.6.9). */
#define	MSR_HIGH		0xc0000000u
#define	MSRS_PER_PART		0x2000u
#define	PART_BYTES		1024
#define	WRITE_PARTS		(2 * PART_BYTES)

static const uint32_t read_write[] = {
	MSR_GSBASE, MSR_FSBASE, MSR_SYSENTER_CS_MSR, MSR_SYSENTER_ESP_MSR, MSR_SYSENTER_EIP_MSR,	/* in the VMCS */
	MSR_EFER,
	MSR_LSTAR, MSR_CSTAR, MSR_STAR, MSR_SF_MASK, MSR_KGSBASE
};

static void
pass_through(uint8_t *bitmap, uint32_t num, bool write)
{
	uint32_t part = num >= MSR_HIGH ? PART_BYTES : 0, bit = num % MSRS_PER_PART;
	uint8_t clear = (uint8_t)~(1u << (bit % 8));

	bitmap[part + bit / 8] &= clear;
	if (write)
		bitmap[WRITE_PARTS + part + bit / 8] &= clear;
}

void
vmx_msr_permissions(uint8_t *bitmap)
{
	memset(bitmap, 0xff, PAGE_SIZE);
	for (size_t i = 0; i < sizeof(read_write) / sizeof(read_write[0]); i++)
		pass_through(bitmap, read_write[i], true);
	pass_through(bitmap, MSR_TSC, false);
}

void
vmx_msr_init(void)
{
	for (size_t i = 0; i < SWITCHED; i++)
		host_msrs[i] = rdmsr(switched[i]);
}

void
vmx_msr_guest_init(struct vmx_vcpu *vcpu)
{
	vcpu->guest_msrs[IDX_MSR_PAT] = PAT_RESET_VALUE;
}

void
vmx_msr_guest_enter(struct vmx_vcpu *vcpu)
{
	for (size_t i = 0; i < SWITCHED; i++)
		wrmsr(switched[i], vcpu->guest_msrs[i]);
	/* Read by RDTSCP alone, so it may stay for the whole of vmx_run(). */
	if (vmx_settings.cap_rdtscp)
		wrmsr(MSR_TSC_AUX, vcpu->guest_msrs[IDX_MSR_TSC_AUX]);
}

void
vmx_msr_guest_exit(struct vmx_vcpu *vcpu)
{
	for (size_t i = 0; i < SWITCHED; i++) {
		vcpu->guest_msrs[i] = rdmsr(switched[i]);
		wrmsr(switched[i], host_msrs[i]);
	}
	if (vmx_settings.cap_rdtscp)
		wrmsr(MSR_TSC_AUX, (uint64_t)curcpu());
}

static bool
valid_pat(uint64_t pat)
{
	for (; pat != 0; pat >>= 8) {
		uint8_t type = pat & 0xff;

		if (type == 2 || type == 3 || type > 7)
			return (false);
	}
	return (true);
}

/*
 * MSRs that exist for every guest whatever the policy for unknown ones. 0, or EINVAL for a number that is not
 * known here.
 */
int
vmx_rdmsr(struct vmx_vcpu *vcpu, uint32_t num, uint64_t *val)
{
	switch (num) {
	case MSR_MCG_CAP:
	case MSR_MCG_STATUS:
		*val = 0;
		return (0);
	case MSR_IA32_MISC_ENABLE:
		*val = 1;		/* fast strings */
		return (0);
	case MSR_PAT:
		*val = vcpu->guest_msrs[IDX_MSR_PAT];
		return (0);
	case MSR_TSC_AUX:
		*val = vcpu->guest_msrs[IDX_MSR_TSC_AUX];
		return (0);
	default:
		return (EINVAL);
	}
}

int
vmx_wrmsr(struct vmx_vcpu *vcpu, uint32_t num, uint64_t val)
{
	switch (num) {
	case MSR_MCG_CAP:
	case MSR_MCG_STATUS:
	case MSR_IA32_MISC_ENABLE:
		return (0);
	case MSR_PAT:
		/* The nested tables decide about caching; the guest only gets back what it wrote. */
		if (!valid_pat(val))
			vm_inject_gp(vcpu->vcpu);
		else
			vcpu->guest_msrs[IDX_MSR_PAT] = val;
		return (0);
	case MSR_TSC:
		vmcs_write(VMCS_TSC_OFFSET, val - rdtsc());
		return (0);
	case MSR_TSC_AUX:
		if (!vmx_settings.cap_rdtscp || val >> 32 != 0) {
			vm_inject_gp(vcpu->vcpu);
			return (0);
		}
		vcpu->guest_msrs[IDX_MSR_TSC_AUX] = val;
		wrmsr(MSR_TSC_AUX, val);
		return (0);
	case MSR_DEBUGCTLMSR:
		return (defect(DEFECT_VMX_WRMSR_DEBUGCTL_IGNORED) ? 0 : EINVAL);
	default:
		return (EINVAL);
	}
}
