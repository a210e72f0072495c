/* The entries of the two exceptions that debugging is made of. */
#define PC_STEPS	32
#define PC_STEP		40
#define DR6_B		0x000f
#define DR6_BS		0x4000

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

	/*
	 * #DB: a step of the host on its way into a guest is only counted, right here. There are some hundred of them for
	 * each entry, and the guest has to get somewhere before the next tick.
	 */
	.globl	db_entry
db_entry:
	pushq	%rax
	movq	%dr6, %rax
	testl	$DR6_B, %eax
	jnz	1f
	testl	$DR6_BS, %eax
	jz	1f
	cmpb	$0, %gs:PC_STEP
	je	1f
	incq	%gs:PC_STEPS
	popq	%rax
	iretq
1:	popq	%rax
	pushq	$0
	pushq	$1
	jmp	trap_common

	.section .note.GNU-stack, "", @progbits
