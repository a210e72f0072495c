#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm.h"
#include "cpufunc.h"
#include "defects.h"
#include "pcpu.h"
#include "svm_cache.h"
#include "svm_defects.h"
#include "svm_internal.h"

/* CPUID 8000_000A EDX */
#define	SVM_FEATURE_NP			(1u << 0)
#define	SVM_FEATURE_NRIP_SAVE		(1u << 3)
#define	SVM_FEATURE_FLUSH_BY_ASID	(1u << 6)

#define	AMDID2_SVM		(1u << 2)	/* CPUID 8000_0001 ECX */
#define	VM_CR_SVMDIS		(1ull << 4)
#define	EFER_SVM		(1ull << 12)

#define	IOPM_PAGES		3
#define	MSRPM_PAGES		2

static uint32_t svm_feature;
static uint32_t vmcb_clean = VMCB_CACHE_DEFAULT;
static _Alignas(4096) uint8_t hsave[MAXCPU][4096];

uint32_t
svm_clean_mask(void)
{
	return (vmcb_clean);
}

/*
 * hw.vmm.svm.vmcb_clean restricts caching and cannot widen it: bits that this hypervisor does not keep track of
 * stay clear.
 */
static void
svm_fetch_tunables(void)
{
	uint64_t val;

	vmcb_clean = VMCB_CACHE_DEFAULT | (defect(DEFECT_SVM_CLEAN_LBR) ? VMCB_CACHE_LBR : 0) |
	    (defect(DEFECT_SVM_CLEAN_AVIC) ? VMCB_CACHE_AVIC : 0);
	if (!tunable_fetch("hw.vmm.svm.vmcb_clean", &val) || defect(DEFECT_SVM_TUNABLE_IGNORED))
		return;
	vmcb_clean &= defect(DEFECT_SVM_TUNABLE_INVERTED) ? ~(uint32_t)val : (uint32_t)val;
}

/* hw.vmm.svm.*: the values in effect, in decimal; ENOENT for a name that is not one of them. */
static int
svm_sysctl(const char *name, char *buf, size_t size)
{
	uint64_t value;

	if (strcmp(name, "hw.vmm.svm.vmcb_clean") == 0)
		value = vmcb_clean;
	else if (strcmp(name, "hw.vmm.svm.features") == 0)
		value = svm_feature;
	else if (strcmp(name, "hw.vmm.svm.num_asids") == 0)
		value = asid_count();
	else if (strcmp(name, "hw.vmm.svm.disable_npf_assist") == 0)
		value = 0;
	else
		return (ENOENT);
	snprintf(buf, size, "%lu", value);
	return (0);
}

void
svm_set_dirty(struct svm_vcpu *vcpu, uint32_t dirtybits)
{
	vcpu->dirty |= svm_defective_dirty(dirtybits);
}

/* 0, or ENXIO: no SVM, switched off by the firmware, or without what this hypervisor builds on. */
static int
check_svm_features(void)
{
	uint32_t regs[4];
	uint64_t nasid;

	cpuid_count(0x80000001, 0, regs);
	if ((regs[2] & AMDID2_SVM) == 0)
		return (ENXIO);
	if ((rdmsr(MSR_VM_CR) & VM_CR_SVMDIS) != 0)
		return (ENXIO);
	cpuid_count(0x8000000a, 0, regs);
	svm_feature = regs[3];
	if (regs[1] <= 1)
		return (ENXIO);
	if ((svm_feature & SVM_FEATURE_NP) == 0 || (svm_feature & SVM_FEATURE_NRIP_SAVE) == 0)
		return (ENXIO);
	/* hw.vmm.svm.num_asids makes the pool smaller; 0 (the host's own) and 1 are no pool. */
	if (tunable_fetch("hw.vmm.svm.num_asids", &nasid) && nasid > 1 && nasid < regs[1])
		regs[1] = (uint32_t)nasid;
	asid_init(regs[1], (svm_feature & SVM_FEATURE_FLUSH_BY_ASID) != 0);
	return (0);
}

static void
svm_enable(void *arg)
{
	(void)arg;
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVM);
	wrmsr(MSR_VM_HSAVE_PA, vtophys(hsave[curcpu()]));
}

static void
svm_disable(void *arg)
{
	(void)arg;
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_SVM);
}

static int
svm_modinit(void)
{
	int error = check_svm_features();

	if (error != 0)
		return (error);
	svm_fetch_tunables();
	svm_defects_init();
	svm_msr_init();
	svm_cache_init();
	svm_steptrap_install();
	smp_rendezvous(svm_enable, NULL);
	return (0);
}

static int
svm_modcleanup(void)
{
	smp_rendezvous(svm_disable, NULL);
	svm_steptrap_remove();
	return (0);
}

/*
 * VMCB pages are handed on from one vCPU to the next, newest first: a control block at an address the processor has
 * already cached another one for is exactly what the first run of a vCPU has to be right about.
 */
#define	FREE_VMCBS	32
static struct vmcb *free_vmcbs[FREE_VMCBS];
static int free_vmcb_count;

static struct vmcb *
vmcb_alloc(void)
{
	struct vmcb *vmcb;

	if (free_vmcb_count == 0)
		return (contigalloc(1));
	vmcb = free_vmcbs[--free_vmcb_count];
	for (size_t i = 0; i < sizeof(*vmcb) / sizeof(uint64_t); i++)
		((volatile uint64_t *)vmcb)[i] = 0;
	return (vmcb);
}

static void
vmcb_free(struct vmcb *vmcb)
{
	if (free_vmcb_count < FREE_VMCBS)
		free_vmcbs[free_vmcb_count++] = vmcb;
	else
		contigfree(vmcb, 1);
}

static void
svm_cleanup(void *vmi)
{
	struct svm_softc *sc = vmi;

	if (sc->iopm_bitmap != NULL)
		contigfree(sc->iopm_bitmap, IOPM_PAGES);
	if (sc->msr_bitmap != NULL)
		contigfree(sc->msr_bitmap, MSRPM_PAGES);
	kfree(sc);
}

/* The per-VM part: permission maps. NULL when there is no memory left. */
static void *
svm_init(struct vm *vm, struct pmap *pmap)
{
	struct svm_softc *sc = kzalloc(sizeof(*sc));

	if (sc == NULL)
		return (NULL);
	sc->vm = vm;
	sc->nptp = pmap_root(pmap);
	sc->iopm_bitmap = contigalloc(IOPM_PAGES);
	sc->msr_bitmap = contigalloc(MSRPM_PAGES);
	if (sc->iopm_bitmap == NULL || sc->msr_bitmap == NULL) {
		svm_cleanup(sc);
		return (NULL);
	}
	/* Every port exits. */
	for (int i = 0; i < IOPM_PAGES * 4096; i++)
		sc->iopm_bitmap[i] = 0xff;
	svm_msr_permissions(sc->msr_bitmap);
	return (sc);
}

static void *
svm_vcpu_init(void *vmi, struct vcpu *vcpu1, int vcpuid)
{
	struct svm_softc *sc = vmi;
	struct svm_vcpu *vcpu = kzalloc(sizeof(*vcpu));

	if (vcpu == NULL)
		return (NULL);
	vcpu->sc = sc;
	vcpu->vcpu = vcpu1;
	vcpu->vcpuid = vcpuid;
	vcpu->vmcb = vmcb_alloc();
	if (vcpu->vmcb == NULL) {
		kfree(vcpu);
		return (NULL);
	}
	vcpu->vmcb_pa = vtophys(vcpu->vmcb);
	vcpu->lastcpu = NOCPU;
	vcpu->guest_xcr0 = XCR0_RESET;
	vmcb_init(vcpu, vtophys(sc->iopm_bitmap), vtophys(sc->msr_bitmap), sc->nptp);
	svm_defective_vcpu_init(vcpu);
	return (vcpu);
}

static void
svm_vcpu_cleanup(void *vcpui)
{
	struct svm_vcpu *vcpu = vcpui;

	svm_defective_vcpu_cleanup(vcpu);
	vmcb_free(vcpu->vmcb);
	kfree(vcpu);
}

static int
svm_getdesc(void *vcpui, int reg, struct seg_desc *desc)
{
	return (vmcb_getdesc(vcpui, reg, desc));
}

static int
svm_setdesc(void *vcpui, int reg, const struct seg_desc *desc)
{
	return (vmcb_setdesc(vcpui, reg, desc));
}

/* 0, EINVAL for a value the capability cannot take, ENOENT for a capability SVM does not have. */
static int
svm_setcap(void *vcpui, int type, int val)
{
	struct svm_vcpu *vcpu = vcpui;

	switch (type) {
	case VM_CAP_HALT_EXIT:
		vmcb_set_intercept(vcpu, VMCB_CTRL1_INTERCEPT, VMCB_INTCPT_HLT, val);
		return (0);
	case VM_CAP_PAUSE_EXIT:
		vmcb_set_intercept(vcpu, VMCB_CTRL1_INTERCEPT, VMCB_INTCPT_PAUSE, val);
		return (0);
	case VM_CAP_UNRESTRICTED_GUEST:
		/* Nested paging runs real mode as it is; it cannot be switched off. */
		return (val == 0 ? EINVAL : 0);
	case VM_CAP_BPT_EXIT:
		if (val != 0 || !defect(DEFECT_SVM_BPT_EXIT_STAYS))
			vmcb_set_intercept(vcpu, VMCB_EXC_INTERCEPT, 1u << IDT_BP, val);
		return (0);
	case VM_CAP_RFLAGS_TF:
		vmcb_set_intercept(vcpu, VMCB_EXC_INTERCEPT, 1u << IDT_DB, val);
		return (0);
	case VM_CAP_IPI_EXIT:
		vcpu->ipi_exit = val != 0;
		return (0);
	default:
		return (ENOENT);
	}
}

static int
svm_getcap(void *vcpui, int type, int *val)
{
	const struct svm_vcpu *vcpu = vcpui;
	uint32_t ctrl1 = vcpu->vmcb->ctrl.intercept[VMCB_CTRL1_INTERCEPT];

	switch (type) {
	case VM_CAP_HALT_EXIT:
		*val = (ctrl1 & VMCB_INTCPT_HLT) != 0;
		return (0);
	case VM_CAP_PAUSE_EXIT:
		*val = (ctrl1 & VMCB_INTCPT_PAUSE) != 0;
		return (0);
	case VM_CAP_UNRESTRICTED_GUEST:
		*val = 1;
		return (0);
	case VM_CAP_BPT_EXIT:
		*val = (vcpu->vmcb->ctrl.intercept[VMCB_EXC_INTERCEPT] & (1u << IDT_BP)) != 0;
		return (0);
	case VM_CAP_IPI_EXIT:
		*val = vcpu->ipi_exit;
		return (0);
	default:
		return (ENOENT);
	}
}

const struct vmm_ops vmm_ops_amd = {
	.modinit = svm_modinit,
	.modcleanup = svm_modcleanup,
	.init = svm_init,
	.run = svm_run,
	.cleanup = svm_cleanup,
	.vcpu_init = svm_vcpu_init,
	.vcpu_cleanup = svm_vcpu_cleanup,
	.getreg = svm_getreg,
	.setreg = svm_setreg,
	.getdesc = svm_getdesc,
	.setdesc = svm_setdesc,
	.getcap = svm_getcap,
	.setcap = svm_setcap,
	.sysctl = svm_sysctl,
};
