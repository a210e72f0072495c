/*
 * What the processor offers (SDM volume 3, appendix A) and the settings that follow from it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpufunc.h"
#include "defects.h"
#include "vmx_internal.h"

#define	MSR_VMX_MISC			0x485
#define	MSR_VMX_CR0_FIXED0		0x486
#define	MSR_VMX_CR0_FIXED1		0x487
#define	MSR_VMX_CR4_FIXED0		0x488
#define	MSR_VMX_CR4_FIXED1		0x489
#define	MSR_VMX_PROCBASED_CTLS2		0x48b
#define	MSR_VMX_EPT_VPID_CAP		0x48c

#define	VMX_BASIC_TRUE_CTLS		(1ull << 55)
#define	MISC_TIMER_RATE			0x1full

#define	EPT_CAP_PWL4			(1ull << 6)
#define	EPT_CAP_MEMORY_TYPE_WB		(1ull << 14)
#define	EPT_CAP_INVEPT			(1ull << 20)
#define	EPT_CAP_INVEPT_SINGLE		(1ull << 25)
#define	VPID_CAP_INVVPID		(1ull << 32)
#define	VPID_CAP_INVVPID_SINGLE		(1ull << 41)

/*
 * Time stamps after which a guest is left in any case. Longer than the host's own tick, which ends the stay of every
 * guest that has interrupts on.
 */
#define	PREEMPTION_TIMESTAMPS		40000u

/* A set of controls: its capability MSR and that which is in force when the processor has "true" ones. */
struct ctls {
	const char *name;
	uint32_t msr;
	uint32_t true_msr;
	uint32_t ones;		/* must be set */
	uint32_t zeros;		/* must be clear; everything else follows the processor's default */
};

#define	PINBASED_ONES		(PINBASED_EXTINT_EXITING | PINBASED_NMI_EXITING | PINBASED_VIRTUAL_NMI)
#define	PROCBASED_ONES		(PROCBASED_SECONDARY_CONTROLS | PROCBASED_MWAIT_EXITING | PROCBASED_MONITOR_EXITING | \
				 PROCBASED_IO_EXITING | PROCBASED_MSR_BITMAPS | PROCBASED_TSC_OFFSET | \
				 PROCBASED_CR8_LOAD_EXITING | PROCBASED_CR8_STORE_EXITING)
#define	PROCBASED_ZEROS		(PROCBASED_CR3_LOAD_EXITING | PROCBASED_CR3_STORE_EXITING | PROCBASED_IO_BITMAPS | \
				 PROCBASED_MOV_DR_EXITING | PROCBASED_USE_TPR_SHADOW | PROCBASED_INT_WINDOW_EXITING | \
				 PROCBASED_NMI_WINDOW_EXITING)
#define	EXIT_ONES		(VM_EXIT_SAVE_DEBUG_CONTROLS | VM_EXIT_HOST_LMA | VM_EXIT_SAVE_EFER | \
				 VM_EXIT_LOAD_EFER | VM_EXIT_ACKNOWLEDGE_INTERRUPT)
#define	ENTRY_ONES		(VM_ENTRY_LOAD_DEBUG_CONTROLS | VM_ENTRY_LOAD_EFER)
#define	ENTRY_ZEROS		(VM_ENTRY_INTO_SMM | VM_ENTRY_DEACTIVATE_DUAL_MONITOR | VM_ENTRY_GUEST_LMA)

static const struct ctls pinbased = { "pin-based", 0x481, 0x48d, PINBASED_ONES, 0 };
static const struct ctls procbased = { "processor-based", 0x482, 0x48e, PROCBASED_ONES, PROCBASED_ZEROS };
static const struct ctls exit_ = { "exit", 0x483, 0x48f, EXIT_ONES, 0 };
static const struct ctls entry = { "entry", 0x484, 0x490, ENTRY_ONES, ENTRY_ZEROS };

struct vmx_settings vmx_settings;
static uint64_t basic;

uint32_t
vmx_revision(void)
{
	return ((uint32_t)basic & 0x7fffffff);
}

/* Low half of a capability MSR: bits that must be 1; high half: bits that may be 1. */
static bool
ctl_allowed(uint32_t msr, uint32_t bits)
{
	return (((uint32_t)(rdmsr(msr) >> 32) & bits) == bits);
}

static uint32_t
ctl_msr(const struct ctls *ctls)
{
	return ((basic & VMX_BASIC_TRUE_CTLS) != 0 ? ctls->true_msr : ctls->msr);
}

/* 0 with the value for the VMCS, or EINVAL: the processor cannot have the controls so. */
static int
vmx_set_ctlreg(const struct ctls *ctls, uint32_t clear, uint32_t *val)
{
	uint64_t allowed = rdmsr(ctl_msr(ctls));
	uint32_t must = (uint32_t)allowed, may = (uint32_t)(allowed >> 32);
	uint32_t ones = ctls->ones & ~clear, zeros = ctls->zeros | clear;

	if ((ones & ~may) != 0 || (zeros & must) != 0) {
		printf("vmx_modinit: processor does not support desired %s controls\n", ctls->name);
		return (EINVAL);
	}
	*val = must | ones;
	return (0);
}

static void
set_cr_masks(void)
{
	uint64_t fixed0 = rdmsr(MSR_VMX_CR0_FIXED0), fixed1 = rdmsr(MSR_VMX_CR0_FIXED1);

	vmx_settings.cr0_ones_mask = fixed0 & fixed1;
	vmx_settings.cr0_zeros_mask = ~fixed0 & ~fixed1;
	/* An unrestricted guest runs without protection and paging, too. */
	vmx_settings.cr0_ones_mask &= ~(CR0_PG | CR0_PE);
	/* Caching is the host's affair. */
	vmx_settings.cr0_zeros_mask |= CR0_NW | CR0_CD;

	fixed0 = rdmsr(MSR_VMX_CR4_FIXED0);
	fixed1 = rdmsr(MSR_VMX_CR4_FIXED1);
	vmx_settings.cr4_ones_mask = fixed0 & fixed1;
	vmx_settings.cr4_zeros_mask = ~fixed0 & ~fixed1;
}

uint64_t
vmx_fix_cr0(uint64_t cr0)
{
	return ((cr0 | vmx_settings.cr0_ones_mask) & ~vmx_settings.cr0_zeros_mask);
}

uint64_t
vmx_fix_cr4(uint64_t cr4)
{
	return ((cr4 | vmx_settings.cr4_ones_mask) & ~vmx_settings.cr4_zeros_mask);
}

/* EPT with four levels and write-back tables, and unrestricted guests: there is no way to run a boot ROM without. */
static int
set_procbased2(void)
{
	uint64_t ept_cap;

	if (!ctl_allowed(MSR_VMX_PROCBASED_CTLS2, PROCBASED2_ENABLE_EPT | PROCBASED2_UNRESTRICTED_GUEST)) {
		printf("vmx_modinit: processor does not support desired secondary controls\n");
		return (ENXIO);
	}
	vmx_settings.cap_unrestricted_guest = true;
	vmx_settings.procbased_ctls2 = PROCBASED2_ENABLE_EPT | PROCBASED2_UNRESTRICTED_GUEST;
	ept_cap = rdmsr(MSR_VMX_EPT_VPID_CAP);
	if ((ept_cap & EPT_CAP_PWL4) == 0 || (ept_cap & EPT_CAP_MEMORY_TYPE_WB) == 0 ||
	    (ept_cap & EPT_CAP_INVEPT) == 0 || (ept_cap & EPT_CAP_INVEPT_SINGLE) == 0) {
		printf("vmx_modinit: ept initialization failed\n");
		return (ENXIO);
	}
	vmx_settings.cap_vpid = ctl_allowed(MSR_VMX_PROCBASED_CTLS2, PROCBASED2_ENABLE_VPID) &&
	    (ept_cap & VPID_CAP_INVVPID) != 0 && (ept_cap & VPID_CAP_INVVPID_SINGLE) != 0;
	vmx_settings.cap_invpcid = ctl_allowed(MSR_VMX_PROCBASED_CTLS2, PROCBASED2_ENABLE_INVPCID);
	vmx_settings.cap_rdtscp = ctl_allowed(MSR_VMX_PROCBASED_CTLS2, PROCBASED2_ENABLE_RDTSCP);
	vmx_settings.cap_wbinvd_exit = ctl_allowed(MSR_VMX_PROCBASED_CTLS2, PROCBASED2_WBINVD_EXITING);
	if (vmx_settings.cap_rdtscp)
		vmx_settings.procbased_ctls2 |= PROCBASED2_ENABLE_RDTSCP;
	return (0);
}

static void
fetch_tunables(void)
{
	uint64_t val;

	vmx_settings.trace_guest_exceptions = tunable_fetch("hw.vmm.trace_guest_exceptions", &val) && val != 0;
	vmx_settings.no_flush_rsb = tunable_fetch("hw.vmm.vmx.no_flush_rsb", &val) && val != 0;
	vmx_settings.exception_bitmap = vmx_settings.trace_guest_exceptions ? 0xffffffff : 1u << IDT_MC;
}

int
vmx_settings_init(void)
{
	uint32_t no_save = defect(DEFECT_VMX_DEBUG_CONTROLS_NOT_SAVED) ? VM_EXIT_SAVE_DEBUG_CONTROLS : 0;
	uint32_t no_load = defect(DEFECT_VMX_DEBUG_CONTROLS_NOT_LOADED) ? VM_ENTRY_LOAD_DEBUG_CONTROLS : 0;

	vmx_settings = (struct vmx_settings){ 0 };
	basic = rdmsr(MSR_VMX_BASIC);
	if (vmx_set_ctlreg(&procbased, 0, &vmx_settings.procbased_ctls) != 0 ||
	    vmx_set_ctlreg(&pinbased, 0, &vmx_settings.pinbased_ctls) != 0 ||
	    vmx_set_ctlreg(&exit_, no_save, &vmx_settings.exit_ctls) != 0 ||
	    vmx_set_ctlreg(&entry, no_load, &vmx_settings.entry_ctls) != 0)
		return (ENXIO);
	/* These are switched by capability, guest by guest. */
	vmx_settings.cap_halt_exit = ctl_allowed(ctl_msr(&procbased), PROCBASED_HLT_EXITING);
	vmx_settings.cap_pause_exit = ctl_allowed(ctl_msr(&procbased), PROCBASED_PAUSE_EXITING);
	vmx_settings.cap_monitor_trap = ctl_allowed(ctl_msr(&procbased), PROCBASED_MTF);
	if (ctl_allowed(ctl_msr(&pinbased), PINBASED_PREMPTION_TIMER)) {
		vmx_settings.pinbased_ctls |= PINBASED_PREMPTION_TIMER;
		vmx_settings.preemption_timer = PREEMPTION_TIMESTAMPS >> (rdmsr(MSR_VMX_MISC) & MISC_TIMER_RATE);
	}
	set_cr_masks();
	fetch_tunables();
	return (set_procbased2());
}

int
vmx_sysctl(const char *name, char *buf, size_t size)
{
	const struct vmx_settings *s = &vmx_settings;
	const struct { const char *name; uint64_t value; } values[] = {
		{ "initialized", 1 },
		{ "cr0_ones_mask", s->cr0_ones_mask },
		{ "cr0_zeros_mask", s->cr0_zeros_mask },
		{ "cr4_ones_mask", s->cr4_ones_mask },
		{ "cr4_zeros_mask", s->cr4_zeros_mask },
		{ "no_flush_rsb", s->no_flush_rsb },
		{ "l1d_flush", 0 },
		{ "l1d_flush_sw", 0 },
		{ "posted_interrupt_vector", 0 },
		{ "vpid_alloc_failed", 0 },
		{ "cap.halt_exit", s->cap_halt_exit },
		{ "cap.pause_exit", s->cap_pause_exit },
		{ "cap.monitor_trap", s->cap_monitor_trap },
		{ "cap.unrestricted_guest", s->cap_unrestricted_guest },
		{ "cap.invpcid", s->cap_invpcid },
		{ "cap.rdtscp", s->cap_rdtscp },
		{ "cap.rdpid", 0 },
		{ "cap.wbinvd_exit", s->cap_wbinvd_exit },
		{ "cap.tpr_shadowing", 0 },
		{ "cap.virtual_interrupt_delivery", 0 },
		{ "cap.posted_interrupts", 0 },
	};
	static const char prefix[] = "hw.vmm.vmx.";

	if (strncmp(name, prefix, sizeof(prefix) - 1) != 0)
		return (ENOENT);
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		if (strcmp(name + sizeof(prefix) - 1, values[i].name) == 0) {
			snprintf(buf, size, "%lu", values[i].value);
			return (0);
		}
	}
	return (ENOENT);
}
