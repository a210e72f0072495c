#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpufunc.h"
#include "vmx_defects.h"
#include "vmx_internal.h"

#define	CPUID2_VMX			(1u << 5)	/* CPUID 1 ECX */
#define	FEATURE_CONTROL_LOCK		(1ull << 0)
#define	FEATURE_CONTROL_VMX_EN		(1ull << 2)

/* EPT pointer (SDM volume 3, 25.6.11): tables cached write-back, a walk of four levels. */
#define	EPTP_MEMORY_TYPE_WB		6ull
#define	EPTP_PWL_4			(3ull << 3)

static _Alignas(4096) struct vmcs vmxon_region[MAXCPU];
static volatile bool vmxon_enabled[MAXCPU];

/* 0, or ENXIO: no VT-x, or switched off and locked by the firmware. */
static int
check_vmx(void)
{
	uint32_t regs[4];
	uint64_t feature_control;

	cpuid_count(1, 0, regs);
	if ((regs[2] & CPUID2_VMX) == 0) {
		printf("vmx_modinit: processor does not support VMX operation\n");
		return (ENXIO);
	}
	feature_control = rdmsr(MSR_IA32_FEATURE_CONTROL);
	if ((feature_control & FEATURE_CONTROL_LOCK) != 0 && (feature_control & FEATURE_CONTROL_VMX_EN) == 0) {
		printf("vmx_modinit: VMX operation disabled by BIOS\n");
		return (ENXIO);
	}
	return (0);
}

static void
vmx_enable(void *arg)
{
	struct vmcs *region = &vmxon_region[curcpu()];
	uint64_t pa = vtophys(region);

	(void)arg;
	if ((rdmsr(MSR_IA32_FEATURE_CONTROL) & FEATURE_CONTROL_LOCK) == 0)
		wrmsr(MSR_IA32_FEATURE_CONTROL, FEATURE_CONTROL_VMX_EN | FEATURE_CONTROL_LOCK);
	load_cr4(rcr4() | CR4_VMXE);
	region->identifier = vmx_revision();
	vmxon_enabled[curcpu()] = vmxon(&pa) == VM_SUCCESS;
}

static void
vmx_disable(void *arg)
{
	(void)arg;
	if (vmxon_enabled[curcpu()]) {
		vmxoff();
		vmxon_enabled[curcpu()] = false;
	}
	load_cr4(rcr4() & ~CR4_VMXE);
}

static int
vmx_modcleanup(void)
{
	smp_rendezvous(vmx_disable, NULL);
	return (0);
}

static int
vmx_modinit(void)
{
	int error = check_vmx();

	if (error == 0)
		error = vmx_settings_init();
	if (error != 0)
		return (error);
	vmx_defects_init();
	vmx_msr_init();
	smp_rendezvous(vmx_enable, NULL);
	if (!vmxon_enabled[curcpu()]) {
		printf("vmx_modinit: vmxon failed\n");
		(void)vmx_modcleanup();
		return (ENXIO);
	}
	return (0);
}

static void
vmx_cleanup(void *vmi)
{
	struct vmx *vmx = vmi;

	if (vmx->msr_bitmap != NULL)
		contigfree(vmx->msr_bitmap, 1);
	kfree(vmx);
}

/* The per-VM part. NULL when there is no memory left. */
static void *
vmx_init(struct vm *vm, struct pmap *pmap)
{
	struct vmx *vmx = kzalloc(sizeof(*vmx));

	if (vmx == NULL)
		return (NULL);
	vmx->vm = vm;
	vmx->eptp = pmap_root(pmap) | EPTP_MEMORY_TYPE_WB | EPTP_PWL_4;
	vmx->msr_bitmap = contigalloc(1);
	if (vmx->msr_bitmap == NULL) {
		vmx_cleanup(vmx);
		return (NULL);
	}
	vmx_msr_permissions(vmx->msr_bitmap);
	return (vmx);
}

const struct vmm_ops vmm_ops_intel = {
	.modinit = vmx_modinit,
	.modcleanup = vmx_modcleanup,
	.init = vmx_init,
	.run = vmx_run,
	.cleanup = vmx_cleanup,
	.vcpu_init = vmx_vcpu_init,
	.vcpu_cleanup = vmx_vcpu_cleanup,
	.getreg = vmx_getreg,
	.setreg = vmx_setreg,
	.getdesc = vmx_getdesc,
	.setdesc = vmx_setdesc,
	.getcap = vmx_getcap,
	.setcap = vmx_setcap,
	.sysctl = vmx_sysctl,
};
