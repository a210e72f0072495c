/* Entry of a static program for FreeBSD/amd64 without any library, and its system calls. */

	.text
	.globl	_start
_start:
	/* The kernel passes the argument block in %rdi: argc, then argv. */
	xorl	%ebp, %ebp
	movq	(%rdi), %rax
	leaq	8(%rdi), %rsi
	movl	%eax, %edi
	andq	$-16, %rsp
	call	run
	movl	%eax, %edi
	movl	$1, %eax		/* exit */
	syscall
	hlt

/*
 * long call6(long number, a, b, c, d, e, f): the result, or the negated errno. The kernel says an error by the carry
 * flag.
 */
	.globl	call6
call6:
	movq	%rdi, %rax
	movq	%rsi, %rdi
	movq	%rdx, %rsi
	movq	%rcx, %rdx
	movq	%r8, %r10
	movq	%r9, %r8
	movq	8(%rsp), %r9
	syscall
	jnc	1f
	negq	%rax
1:
	ret

/* The mark by which the kernel knows whose program this is: ABI of 12.1, which every later release keeps. */
	.section .note.tag, "a", @note
	.balign	4
	.long	8, 4, 1
	.asciz	"FreeBSD"
	.long	1201000

	.section .note.GNU-stack, "", @progbits
