/*
 * #BP on the current stack, as FBT needs it: emulating `push %rbp` writes where the processor has just put its own
 * frame, so that frame moves down first.
 */
	.text
	.globl	bp_entry
bp_entry:
	subq	$16, %rsp
	pushq	%rax
	movq	24(%rsp), %rax
	movq	%rax, 8(%rsp)
	movq	32(%rsp), %rax
	movq	%rax, 16(%rsp)
	movq	40(%rsp), %rax
	movq	%rax, 24(%rsp)
	movq	48(%rsp), %rax
	movq	%rax, 32(%rsp)
	movq	56(%rsp), %rax
	movq	%rax, 40(%rsp)
	popq	%rax
	pushq	$0
	pushq	$3
	jmp	trap_common

	.section .note.GNU-stack, "", @progbits
