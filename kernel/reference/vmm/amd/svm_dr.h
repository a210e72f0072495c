/*
 * Debug registers around VMRUN. DR0-DR3 are switched here for both sides; guest DR6, DR7 and DEBUGCTL come and go
 * with the VMCB, the host's are put aside. Both functions run with GIF = 0.
 */
#ifndef SVM_DR_H
#define SVM_DR_H

#include "cpufunc.h"
#include "defects.h"
#include "pcpu.h"
#include "svm.h"
#include "vmcb.h"

/* DR0-DR3 lie side by side in either context. */
_Static_assert(__builtin_offsetof(struct svm_regctx, sctx_dr3) ==
    __builtin_offsetof(struct svm_regctx, sctx_dr0) + 24, "guest DR0-DR3 are contiguous");
_Static_assert(__builtin_offsetof(struct svm_regctx, host_dr3) ==
    __builtin_offsetof(struct svm_regctx, host_dr0) + 24, "host DR0-DR3 are contiguous");

extern uint64_t svm_percpu_dr[][4];	/* only used by a seeded defect */

static inline uint64_t *
svm_guest_dr(struct svm_regctx *gctx, int cpu)
{
	return (defect(DEFECT_SVM_GUEST_DR_PER_CPU) ? svm_percpu_dr[cpu] : &gctx->sctx_dr0);
}

static inline uint64_t *
svm_host_dr(struct svm_regctx *gctx)
{
	return (defect(DEFECT_SVM_CTX_OVERLAP) ? &gctx->sctx_dr0 : &gctx->host_dr0);
}

static inline void
svm_dr_enter_guest(struct svm_regctx *gctx, int cpu)
{
	uint64_t *guest = svm_guest_dr(gctx, cpu);
	uint64_t *host = svm_host_dr(gctx);

	/* From here to the end of the leave helper no breakpoint of the host can hit. */
	gctx->host_dr7 = rdr7();
	gctx->host_debugctl = pcpus[cpu].pc_debugctl;
	load_dr7(0);
	pcpus[cpu].pc_debugctl = 0;
	if (defect(DEFECT_SVM_HOST_DR7_READ_LATE))
		gctx->host_dr7 = rdr7();

	host[0] = rdr0();
	host[1] = rdr1();
	host[2] = rdr2();
	host[3] = rdr3();
	gctx->host_dr6 = rdr6();

	if (defect(DEFECT_SVM_GUEST_DR_NOT_LOADED))
		return;
	load_dr0(guest[0]);
	load_dr1(guest[1]);
	load_dr2(guest[2]);
	load_dr3(guest[defect(DEFECT_SVM_GUEST_DR_SWAPPED) ? 2 : 3]);
}

static inline void
svm_dr_leave_guest(struct svm_regctx *gctx, int cpu, uint64_t exitcode, uint64_t guest_dr7)
{
	uint64_t *guest = svm_guest_dr(gctx, cpu);
	const uint64_t *host = svm_host_dr(gctx);

	if (!defect(DEFECT_SVM_GUEST_DR_NOT_SAVED) &&
	    !(defect(DEFECT_SVM_INTR_LOSES_DR) && exitcode == VMCB_EXIT_INTR) &&
	    !(defect(DEFECT_SVM_GUEST_DR_LAZY_SAVE) && (guest_dr7 & 0xff) == 0)) {
		guest[0] = rdr0();
		guest[1] = rdr1();
		guest[2] = rdr2();
		guest[3] = rdr3();
	}

	/*
	 * DR7 last: only then may the host's breakpoints be armed again. Here that is good style and no more: while GIF
	 * is clear, processors discard what breakpoint registers match (APM volume 2, 15.17), and the caller sets it
	 * when all of them are back.
	 */
	if (!defect(DEFECT_SVM_HOST_DR_NOT_RESTORED) &&
	    !(defect(DEFECT_SVM_HOST_DR_LAZY) && (gctx->host_dr7 & 0xff) == 0)) {
		load_dr0(host[0]);
		load_dr1(host[1]);
		load_dr2(host[2]);
		load_dr3(host[3]);
	}
	if (!defect(DEFECT_SVM_HOST_DR6_NOT_RESTORED))
		load_dr6(gctx->host_dr6);
	if (!defect(DEFECT_SVM_HOST_DEBUGCTL_NOT_RESTORED))
		pcpus[cpu].pc_debugctl = gctx->host_debugctl;
	if (!defect(DEFECT_SVM_HOST_DR7_NOT_RESTORED))
		load_dr7(gctx->host_dr7);
	if (defect(DEFECT_SVM_HOST_GETS_GUEST_DR) && (gctx->host_dr7 & 0xff) == 0) {
		load_dr0(guest[0]);
		load_dr1(guest[1]);
		load_dr2(guest[2]);
		load_dr3(guest[3]);
		load_dr7(guest_dr7);
	}
}

#endif
