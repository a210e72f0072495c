/*
 * Debug registers around VMRUN. DR0-DR3 are switched here for both sides; guest DR6, DR7 and DEBUGCTL come and go
 * with the VMCB, the host's are put aside. Both run with GIF = 0.
 */
#ifndef SVM_DR_H
#define SVM_DR_H

#include "cpufunc.h"
#include "defects.h"
#include "svm.h"

#define MSR_DEBUGCTLMSR	0x1d9

static inline void
svm_dr_enter_guest(struct svm_regctx *gctx)
{
	/* From here to the leave helper no breakpoint of the host can hit. */
	gctx->host_dr7 = rdr7();
	gctx->host_debugctl = rdmsr(MSR_DEBUGCTLMSR);
	load_dr7(0);
	wrmsr(MSR_DEBUGCTLMSR, 0);

	gctx->host_dr0 = rdr0();
	gctx->host_dr1 = rdr1();
	gctx->host_dr2 = rdr2();
	gctx->host_dr3 = rdr3();
	gctx->host_dr6 = rdr6();

	load_dr0(gctx->sctx_dr0);
	load_dr1(gctx->sctx_dr1);
	load_dr2(gctx->sctx_dr2);
	load_dr3(gctx->sctx_dr3);
}

static inline void
svm_dr_leave_guest(struct svm_regctx *gctx)
{
	gctx->sctx_dr0 = rdr0();
	gctx->sctx_dr1 = rdr1();
	gctx->sctx_dr2 = rdr2();
	gctx->sctx_dr3 = rdr3();

	/* DR7 last: only then may the host's breakpoints be armed again. */
	load_dr0(gctx->host_dr0);
	load_dr1(gctx->host_dr1);
	load_dr2(gctx->host_dr2);
	load_dr3(gctx->host_dr3);
	load_dr6(gctx->host_dr6);
	wrmsr(MSR_DEBUGCTLMSR, gctx->host_debugctl);
	load_dr7(gctx->host_dr7);
}

#endif
