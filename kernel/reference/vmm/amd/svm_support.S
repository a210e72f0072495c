/*
 * The world switch. Host registers live on the stack of the calling thread; the prologue and epilogue make the
 * function traceable at entry and return and keep the host's %rbp across VMRUN. VMRUN itself switches CS, SS, DS,
 * ES, CR0, CR3, CR4, EFER, RFLAGS, RIP, RSP, RAX, GDTR and IDTR. The FS and GS selectors are left alone: loading one
 * would only set the low half of a base; GS.base comes back through its MSR, FS.base is not used in the kernel.
 */
#include "svm_assym.h"

	.bss
	.balign	8
	.globl	svm_launch_defects
svm_launch_defects:
	.long	0
	.balign	8
shared_host_ctx:			/* only used by a seeded defect */
	.skip	6 * 8

	.text
	.balign	16
	.globl	svm_launch
	.type	svm_launch, @function
/* void svm_launch(uint64_t vmcb_pa [%rdi], struct svm_regctx *gctx [%rsi], struct pcpu *pcpu [%rdx]) */
svm_launch:
	push	%rbp
	mov	%rsp, %rbp

	push	%rdx
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15

	testl	$LAUNCH_HOST_CTX_SHARED, svm_launch_defects(%rip)
	jz	1f
	mov	%rbx, shared_host_ctx(%rip)
	mov	%r12, shared_host_ctx + 8(%rip)
	mov	%r13, shared_host_ctx + 16(%rip)
	mov	%r14, shared_host_ctx + 24(%rip)
	mov	%r15, shared_host_ctx + 32(%rip)
	mov	%rdx, shared_host_ctx + 40(%rip)
1:
	mov	%rdi, %rax
	push	%rsi

	mov	SCTX_RBP(%rsi), %rbp
	mov	SCTX_RBX(%rsi), %rbx
	mov	SCTX_RCX(%rsi), %rcx
	mov	SCTX_RDX(%rsi), %rdx
	mov	SCTX_RDI(%rsi), %rdi
	mov	SCTX_R8(%rsi), %r8
	mov	SCTX_R9(%rsi), %r9
	mov	SCTX_R10(%rsi), %r10
	mov	SCTX_R11(%rsi), %r11
	mov	SCTX_R12(%rsi), %r12
	mov	SCTX_R13(%rsi), %r13
	mov	SCTX_R14(%rsi), %r14
	mov	SCTX_R15(%rsi), %r15
	mov	SCTX_RSI(%rsi), %rsi

	vmload	%rax
	vmrun	%rax
svm_launch_resume:
	vmsave	%rax

	pop	%rax
	mov	%rbp, SCTX_RBP(%rax)
	mov	%rbx, SCTX_RBX(%rax)
	mov	%rcx, SCTX_RCX(%rax)
	mov	%rdx, SCTX_RDX(%rax)
	mov	%rdi, SCTX_RDI(%rax)
	mov	%rsi, SCTX_RSI(%rax)
	mov	%r8, SCTX_R8(%rax)
	mov	%r9, SCTX_R9(%rax)
	mov	%r10, SCTX_R10(%rax)
	mov	%r11, SCTX_R11(%rax)
	mov	%r12, SCTX_R12(%rax)
	mov	%r13, SCTX_R13(%rax)
	mov	%r14, SCTX_R14(%rax)
	mov	%r15, SCTX_R15(%rax)

	cmpl	$0, svm_launch_defects(%rip)
	jne	svm_launch_defective
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rdx

	/* Per-CPU data are reachable again before anything hooked on the return can run. */
	mov	%edx, %eax
	shr	$32, %rdx
	mov	$MSR_GSBASE, %ecx
	wrmsr

svm_launch_epilogue:
	/* Nothing of the guest stays behind for speculation. */
	xor	%edi, %edi
	xor	%esi, %esi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	pop	%rbp
	ret

	/* The tail of svm_launch as the seeded defects have it: one deviation each, everything else as above. */
svm_launch_defective:
	mov	svm_launch_defects(%rip), %eax
	test	$LAUNCH_CALLEE_SAVED_LOST, %al
	jz	1f
	add	$32, %rsp
	jmp	2f
1:	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
2:	pop	%rbx
	pop	%rdx

	test	$LAUNCH_HOST_CTX_SHARED, %al
	jz	1f
	mov	shared_host_ctx(%rip), %rbx
	mov	shared_host_ctx + 8(%rip), %r12
	mov	shared_host_ctx + 16(%rip), %r13
	mov	shared_host_ctx + 24(%rip), %r14
	mov	shared_host_ctx + 32(%rip), %r15
	mov	shared_host_ctx + 40(%rip), %rdx
1:
	test	$LAUNCH_GSBASE_BY_CALLER, %al
	jnz	1f
	mov	%eax, %edi
	mov	%edx, %eax
	shr	$32, %rdx
	mov	$MSR_GSBASE, %ecx
	wrmsr
	mov	%edi, %eax
1:
	test	$LAUNCH_SELECTORS_RELOADED, %al
	jz	1f
	mov	%ss, %edx
	mov	%edx, %fs
	mov	%edx, %gs
1:
	test	$LAUNCH_RBP_LOST, %al
	jz	svm_launch_epilogue
	mov	%rbp, (%rsp)
	jmp	svm_launch_epilogue
	.size	svm_launch, . - svm_launch

	/*
	 * The host's #DB gate while the module is loaded, see svm_steptrap.c. TR and GS.base may be the guest's here, so
	 * nothing but the stack is used.
	 */
	.globl	svm_debug_trap
	.type	svm_debug_trap, @function
svm_debug_trap:
	cmpq	$svm_launch_resume, (%rsp)
	je	1f
	jmp	*svm_host_debug_trap(%rip)
1:	iretq
	.size	svm_debug_trap, . - svm_debug_trap

	.section .note.GNU-stack, "", @progbits
