/*
 * The software contexts of SVM: what belongs to a guest and is not in the VMCB, and what belongs to the host
 * while the guest runs. Members and their order are those of FreeBSD 13.2.
 */
#ifndef SVM_SOFTC_H
#define SVM_SOFTC_H

#include <stdbool.h>

#include "svm.h"
#include "vmcb.h"

struct vm;
struct vcpu;
struct pmap;

struct asid {
	uint64_t gen;			/* generation of the ASID space; 0 = none assigned yet */
	uint32_t num;			/* 1 .. nasid - 1 */
};

/* One per vCPU: guest and host software context and the bookkeeping of the cached VMCB. */
struct svm_vcpu {
	struct svm_softc *sc;
	struct vcpu	*vcpu;
	struct vmcb	*vmcb;		/* one page, what hypervisor and processor share */
	struct svm_regctx swctx;	/* registers VMRUN does not switch */
	uint64_t	vmcb_pa;
	uint64_t	nextrip;	/* where the guest was to continue after the last exit */
	bool		migrated;	/* only used by seeded defects */
	int		lastcpu;	/* host CPU of the last VMRUN, NOCPU before the first */
	uint32_t	dirty;		/* clean bits that must be clear at the next VMRUN */
	long		eptgen;		/* generation of the nested page tables this vCPU last ran with */
	struct asid	asid;
	int		vcpuid;
	uint64_t	guest_xcr0;
	bool		ipi_exit;	/* VM_CAP_IPI_EXIT */
	uint32_t	set_dr_valid;	/* only used by seeded defects */
	uint64_t	set_dr[8];
};
_Static_assert(__builtin_offsetof(struct svm_vcpu, swctx) == 24, "swctx is where D programs expect it");

/* One per VM. */
struct svm_softc {
	struct vm	*vm;
	uint8_t		*iopm_bitmap;	/* three pages */
	uint8_t		*msr_bitmap;	/* two pages */
	uint64_t	nptp;		/* root of the nested page tables, physical */
};

#define NOCPU	(-1)

/* The setter of the accumulator: only the accessors of vmcb.c, the first run and a change of CPU use it. */
void	svm_set_dirty(struct svm_vcpu *vcpu, uint32_t dirtybits);

#endif
