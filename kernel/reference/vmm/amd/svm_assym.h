/*
 * Offsets of struct svm_regctx for svm_support.S; a C file that includes this has them checked.
 */
#ifndef SVM_ASSYM_H
#define SVM_ASSYM_H

#define SCTX_RBP	0
#define SCTX_RBX	8
#define SCTX_RCX	16
#define SCTX_RDX	24
#define SCTX_RDI	32
#define SCTX_RSI	40
#define SCTX_R8		48
#define SCTX_R9		56
#define SCTX_R10	64
#define SCTX_R11	72
#define SCTX_R12	80
#define SCTX_R13	88
#define SCTX_R14	96
#define SCTX_R15	104

#define MSR_GSBASE	0xc0000101

/* Bits of svm_launch_defects, see svm_defects.c. */
#define LAUNCH_GSBASE_BY_CALLER		0x01
#define LAUNCH_CALLEE_SAVED_LOST	0x02
#define LAUNCH_RBP_LOST			0x04
#define LAUNCH_HOST_CTX_SHARED		0x08
#define LAUNCH_SELECTORS_RELOADED	0x10

#ifndef __ASSEMBLER__
#include "svm.h"
#define SCTX_ASSERT(name, member) \
	_Static_assert(__builtin_offsetof(struct svm_regctx, member) == (name), "svm_assym.h: " #name)
SCTX_ASSERT(SCTX_RBP, sctx_rbp);
SCTX_ASSERT(SCTX_RBX, sctx_rbx);
SCTX_ASSERT(SCTX_RCX, sctx_rcx);
SCTX_ASSERT(SCTX_RDX, sctx_rdx);
SCTX_ASSERT(SCTX_RDI, sctx_rdi);
SCTX_ASSERT(SCTX_RSI, sctx_rsi);
SCTX_ASSERT(SCTX_R8, sctx_r8);
SCTX_ASSERT(SCTX_R9, sctx_r9);
SCTX_ASSERT(SCTX_R10, sctx_r10);
SCTX_ASSERT(SCTX_R11, sctx_r11);
SCTX_ASSERT(SCTX_R12, sctx_r12);
SCTX_ASSERT(SCTX_R13, sctx_r13);
SCTX_ASSERT(SCTX_R14, sctx_r14);
SCTX_ASSERT(SCTX_R15, sctx_r15);
#endif

#endif
