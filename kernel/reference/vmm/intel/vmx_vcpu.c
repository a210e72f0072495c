/* Making a vCPU: its VMCS as it is before the first run. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpufunc.h"
#include "defects.h"
#include "vmx_assym.h"
#include "vmx_defects.h"
#include "vmx_internal.h"

/* What a guest reads from CR0 before it has written it: caches off, no FPU error reporting yet. */
#define	CR0_SHADOW_RESET	(CR0_CD | CR0_NW | CR0_ET)

/* VPIDs in use, by bit; 0 is the host's. */
static uint64_t vpids = 1;

static uint16_t
vpid_alloc(void)
{
	if (!vmx_settings.cap_vpid || vpids == ~0ull)
		return (0);
	for (uint16_t vpid = 1;; vpid++) {
		if ((vpids & (1ull << vpid)) == 0) {
			vpids |= 1ull << vpid;
			return (vpid);
		}
	}
}

static void
vpid_free(uint16_t vpid)
{
	if (vpid != 0)
		vpids &= ~(1ull << vpid);
}

bool
vmcs_borrow(const struct vmx_vcpu *vcpu)
{
	if (vcpu->loaded)
		return (false);
	vmcs_load(&vcpu->vmcs_pa);
	return (true);
}

void
vmcs_give_back(const struct vmx_vcpu *vcpu, bool borrowed)
{
	if (borrowed)
		vmcs_unload(&vcpu->vmcs_pa);
}

/* Everything of the host that is the same on all CPUs; the rest follows at each change of CPU. */
static void
init_host_state(const struct vmx_vcpu *vcpu)
{
	uint16_t cs, ss, tr;

	__asm__("mov %%cs, %0" : "=r"(cs));
	__asm__("mov %%ss, %0" : "=r"(ss));
	__asm__("str %0" : "=r"(tr));
	vmcs_write(VMCS_HOST_IA32_EFER, rdmsr(MSR_EFER));
	vmcs_write(VMCS_HOST_CR0, rcr0());
	vmcs_write(VMCS_HOST_CR3, rcr3());
	vmcs_write(VMCS_HOST_CR4, rcr4() | CR4_VMXE);
	vmcs_write(VMCS_HOST_CS_SELECTOR, cs);
	vmcs_write(VMCS_HOST_SS_SELECTOR, ss);
	vmcs_write(VMCS_HOST_DS_SELECTOR, ss);
	vmcs_write(VMCS_HOST_ES_SELECTOR, ss);
	vmcs_write(VMCS_HOST_FS_SELECTOR, 0);
	vmcs_write(VMCS_HOST_GS_SELECTOR, 0);
	vmcs_write(VMCS_HOST_TR_SELECTOR, tr);
	vmcs_write(VMCS_HOST_FS_BASE, 0);
	vmcs_write(VMCS_HOST_GS_BASE, (uintptr_t)curpcpu());	/* until the first run */
	vmcs_write(VMCS_HOST_IA32_SYSENTER_CS, 0);
	vmcs_write(VMCS_HOST_IA32_SYSENTER_ESP, 0);
	vmcs_write(VMCS_HOST_IA32_SYSENTER_EIP, 0);
	vmcs_write(VMCS_HOST_RSP, (uintptr_t)&vcpu->ctx);
	vmcs_write(VMCS_HOST_RIP, vmx_settings.no_flush_rsb ? (uintptr_t)vmx_exit_guest :
	    (uintptr_t)vmx_exit_guest_flush_rsb);
}

static void
init_controls(struct vmx_vcpu *vcpu)
{
	struct vmxcap *cap = &vcpu->cap;

	cap->pin_ctls = vmx_settings.pinbased_ctls;
	cap->proc_ctls = vmx_settings.procbased_ctls | (defect(DEFECT_VMX_MOV_DR_EXITING) ? PROCBASED_MOV_DR_EXITING : 0);
	cap->proc_ctls2 = vmx_settings.procbased_ctls2 | (vcpu->vpid != 0 ? PROCBASED2_ENABLE_VPID : 0);
	cap->exc_bitmap = vmx_settings.exception_bitmap | vmx_defective_exceptions();
	cap->set = 1u << VM_CAP_UNRESTRICTED_GUEST | (vmx_settings.cap_rdtscp ? 1u << VM_CAP_RDTSCP : 0);

	vmcs_write(VMCS_EPTP, vcpu->vmx->eptp);
	vmcs_write(VMCS_PIN_BASED_CTLS, cap->pin_ctls);
	vmcs_write(VMCS_PRI_PROC_BASED_CTLS, cap->proc_ctls);
	vmcs_write(VMCS_SEC_PROC_BASED_CTLS, cap->proc_ctls2);
	vmcs_write(VMCS_EXIT_CTLS, vmx_settings.exit_ctls);
	vmcs_write(VMCS_ENTRY_CTLS, vmx_settings.entry_ctls);
	vmcs_write(VMCS_EXCEPTION_BITMAP, cap->exc_bitmap);
	vmcs_write(VMCS_MSR_BITMAP, vtophys(vcpu->vmx->msr_bitmap));
	vmcs_write(VMCS_VPID, vcpu->vpid);
	vmcs_write(VMCS_TSC_OFFSET, 0);
	vmcs_write(VMCS_CR3_TARGET_COUNT, 0);
	vmcs_write(VMCS_EXIT_MSR_STORE_COUNT, 0);
	vmcs_write(VMCS_EXIT_MSR_LOAD_COUNT, 0);
	vmcs_write(VMCS_ENTRY_MSR_LOAD_COUNT, 0);
	vmcs_write(VMCS_ENTRY_INTR_INFO, 0);
	vmcs_write(VMCS_CR0_MASK, vmx_settings.cr0_ones_mask | vmx_settings.cr0_zeros_mask);
	vmcs_write(VMCS_CR0_SHADOW, CR0_SHADOW_RESET);
	vmcs_write(VMCS_CR4_MASK, vmx_settings.cr4_ones_mask | vmx_settings.cr4_zeros_mask);
	vmcs_write(VMCS_CR4_SHADOW, 0);
}

/* What the reset of a vCPU (vcpu_reset()) does not reach. */
static void
init_guest_state(void)
{
	vmcs_write(VMCS_LINK_POINTER, ~0ull);
	vmcs_write(VMCS_GUEST_IA32_DEBUGCTL, 0);
	vmcs_write(VMCS_GUEST_DR7, DR7_RESET_VALUE);
	vmcs_write(VMCS_GUEST_CR0, vmx_fix_cr0(0));
	vmcs_write(VMCS_GUEST_CR4, vmx_fix_cr4(0));
	vmcs_write(VMCS_GUEST_PENDING_DBG_EXCEPTIONS, 0);
	vmcs_write(VMCS_GUEST_INTERRUPTIBILITY, 0);
	vmcs_write(VMCS_GUEST_ACTIVITY, 0);
	vmcs_write(VMCS_GUEST_IA32_SYSENTER_CS, 0);
	vmcs_write(VMCS_GUEST_IA32_SYSENTER_ESP, 0);
	vmcs_write(VMCS_GUEST_IA32_SYSENTER_EIP, 0);
}

void *
vmx_vcpu_init(void *vmi, struct vcpu *vcpu1, int vcpuid)
{
	struct vmx_vcpu *vcpu = kzalloc(sizeof(*vcpu));

	if (vcpu == NULL)
		return (NULL);
	vcpu->vmx = vmi;
	vcpu->vcpu = vcpu1;
	vcpu->vcpuid = vcpuid;
	vcpu->lastcpu = NOCPU;
	vcpu->vmcs = contigalloc(1);
	if (vcpu->vmcs == NULL) {
		kfree(vcpu);
		return (NULL);
	}
	vcpu->vmcs_pa = vtophys(vcpu->vmcs);
	vcpu->vmcs->identifier = vmx_revision();
	vcpu->vpid = vpid_alloc();
	vcpu->guest_xcr0 = 1;
	vmx_msr_guest_init(vcpu);

	/* The processor may keep something of a VMCS that was in this page before. */
	vmcs_unload(&vcpu->vmcs_pa);
	vmcs_load(&vcpu->vmcs_pa);
	init_host_state(vcpu);
	init_controls(vcpu);
	init_guest_state();
	vmcs_unload(&vcpu->vmcs_pa);

	vcpu->ctx.guest_dr6 = DR6_RESET_VALUE;
	vmx_defective_vcpu_init(vcpu);
	return (vcpu);
}

void
vmx_vcpu_cleanup(void *vcpui)
{
	struct vmx_vcpu *vcpu = vcpui;

	vmx_defective_vcpu_cleanup(vcpu);
	vpid_free(vcpu->vpid);
	contigfree(vcpu->vmcs, 1);
	kfree(vcpu);
}
