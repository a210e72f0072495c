/*
 * What svm_launch() exchanges with its caller. Offsets for assembly stand in svm_assym.h and are checked there.
 */
#ifndef SVM_H
#define SVM_H

#include <stdint.h>

struct pcpu;

/*
 * Guest registers that VMRUN does not switch, and the host's debug state while the guest's is in the processor.
 * Guest RAX, RSP, RIP, RFLAGS, DR6 and DR7 live in the VMCB.
 */
struct svm_regctx {
	uint64_t sctx_rbp;
	uint64_t sctx_rbx;
	uint64_t sctx_rcx;
	uint64_t sctx_rdx;
	uint64_t sctx_rdi;
	uint64_t sctx_rsi;
	uint64_t sctx_r8;
	uint64_t sctx_r9;
	uint64_t sctx_r10;
	uint64_t sctx_r11;
	uint64_t sctx_r12;
	uint64_t sctx_r13;
	uint64_t sctx_r14;
	uint64_t sctx_r15;
	uint64_t sctx_dr0;
	uint64_t sctx_dr1;
	uint64_t sctx_dr2;
	uint64_t sctx_dr3;

	uint64_t host_dr0;
	uint64_t host_dr1;
	uint64_t host_dr2;
	uint64_t host_dr3;
	uint64_t host_dr6;
	uint64_t host_dr7;
	uint64_t host_debugctl;
};

/*
 * Run the guest until its next exit. vmcb_pa is page aligned. Returns with the host's GS.base already valid
 * (pcpu), so that code hooked on its return may use per-CPU data.
 */
void	svm_launch(uint64_t vmcb_pa, struct svm_regctx *gctx, struct pcpu *pcpu);

#endif
