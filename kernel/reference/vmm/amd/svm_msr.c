#include <stdbool.h>
#include <stdint.h>

#include "vmm.h"
#include "cpufunc.h"
#include "svm_internal.h"

/* The system call MSRs are loaded by VMLOAD; their host values are the same on all CPUs. */
enum { IDX_LSTAR, IDX_CSTAR, IDX_STAR, IDX_SF_MASK, HOST_MSR_NUM };

static const uint32_t host_msr_numbers[HOST_MSR_NUM] = {
	[IDX_LSTAR] = MSR_LSTAR,
	[IDX_CSTAR] = MSR_CSTAR,
	[IDX_STAR] = MSR_STAR,
	[IDX_SF_MASK] = MSR_SF_MASK,
};
static uint64_t host_msrs[HOST_MSR_NUM];

/* The MSR permission map: two bits each (read, write), 1 = intercept (APM volume 2, 15.11). */
#define MSR_READ	0x1
#define MSR_WRITE	0x2
#define MSRS_PER_RANGE	0x2000u
#define RANGE_BYTES	(MSRS_PER_RANGE / 4)

static const uint32_t msr_ranges[] = { 0x00000000, 0xc0000000, 0xc0010000 };

struct msr_permission {
	uint32_t number;
	uint8_t passed_through;
};

/* What VMLOAD, VMSAVE or VMRUN switch may be touched directly; EFER and the time may be read. */
static const struct msr_permission msr_permissions[] = {
	{ MSR_GSBASE, MSR_READ | MSR_WRITE },
	{ MSR_FSBASE, MSR_READ | MSR_WRITE },
	{ MSR_KGSBASE, MSR_READ | MSR_WRITE },
	{ MSR_STAR, MSR_READ | MSR_WRITE },
	{ MSR_LSTAR, MSR_READ | MSR_WRITE },
	{ MSR_CSTAR, MSR_READ | MSR_WRITE },
	{ MSR_SF_MASK, MSR_READ | MSR_WRITE },
	{ MSR_SYSENTER_CS_MSR, MSR_READ | MSR_WRITE },
	{ MSR_SYSENTER_ESP_MSR, MSR_READ | MSR_WRITE },
	{ MSR_SYSENTER_EIP_MSR, MSR_READ | MSR_WRITE },
	{ MSR_PAT, MSR_READ | MSR_WRITE },
	{ MSR_TSC, MSR_READ },
	{ MSR_EFER, MSR_READ },
};

void
svm_msr_init(void)
{
	for (int i = 0; i < HOST_MSR_NUM; i++)
		host_msrs[i] = rdmsr(host_msr_numbers[i]);
}

/* Nothing to load by hand: VMLOAD brings the guest's values. */
void
svm_msr_guest_enter(struct svm_vcpu *vcpu)
{
	(void)vcpu;
}

void
svm_msr_guest_exit(struct svm_vcpu *vcpu)
{
	(void)vcpu;
	for (int i = 0; i < HOST_MSR_NUM; i++)
		wrmsr(host_msr_numbers[i], host_msrs[i]);
	/* KernelGSBase comes back on the way to user mode. */
}

void
svm_msr_permissions(uint8_t *bitmap)
{
	for (uint32_t i = 0; i < 2 * 4096; i++)
		bitmap[i] = 0xff;
	for (size_t i = 0; i < sizeof(msr_permissions) / sizeof(msr_permissions[0]); i++) {
		uint32_t number = msr_permissions[i].number;

		for (uint32_t range = 0; range < sizeof(msr_ranges) / sizeof(msr_ranges[0]); range++) {
			uint32_t n = number - msr_ranges[range];

			if (number < msr_ranges[range] || n >= MSRS_PER_RANGE)
				continue;
			bitmap[range * RANGE_BYTES + n / 4] &=
			    (uint8_t)~(msr_permissions[i].passed_through << (2 * (n % 4)));
		}
	}
}

/*
 * MSRs that exist for every guest whatever the policy for unknown ones. 0, or EINVAL for a number that is not
 * known here.
 */
int
svm_rdmsr(struct svm_vcpu *vcpu, uint32_t num, uint64_t *result)
{
	(void)vcpu;
	switch (num) {
	case MSR_SYSCFG:
	case MSR_AMDK8_IPM:
	case MSR_EXTFEATURES:
		*result = 0;
		return (0);
	default:
		return (EINVAL);
	}
}

int
svm_wrmsr(struct svm_vcpu *vcpu, uint32_t num, uint64_t val)
{
	switch (num) {
	case MSR_TSC:
		vmcb_set_tsc_offset(vcpu, val - rdtsc());
		return (0);
	case MSR_SYSCFG:
	case MSR_AMDK8_IPM:
	case MSR_EXTFEATURES:
		return (0);
	default:
		return (EINVAL);
	}
}
