/*
 * To CPL 3 and back, in 64-bit and in compatibility mode, and the entry of SYSCALL and SYSENTER.
 */
#include "layout.h"

	.text
/*
 * uint64_t call_user(const struct user_call *call, uint64_t *stack)
 *
 * Runs call->rip with the selectors given. The code comes back through vector 0x80, whose handler calls leave_snippet.
 */
	.globl call_user
call_user:
	pushq	%rbp
	movq	%rsp, %rbp
	pushq	%rbx
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	%rsp, (%rsi)
	pushq	$SELECTOR_USER_DATA
	pushq	24(%rdi)                        /* rsp */
	pushfq
	orq	$0x3200, (%rsp)                 /* IF, IOPL 3: port accesses of user code are allowed */
	pushq	40(%rdi)                        /* cs */
	pushq	32(%rdi)                        /* rip */
	movl	48(%rdi), %eax
	movw	%ax, %ds
	movw	%ax, %es
	movq	16(%rdi), %rdx
	movq	8(%rdi), %rsi
	movq	(%rdi), %rdi
	xorl	%eax, %eax
	iretq

	.globl user_return64
user_return64:
	int	$0x80

	.code32
	.globl user_return32
user_return32:
	int	$0x80

	.section .low, "ax"
	.code16
	.globl user_return16
user_return16:
	int	$0x80

	.text
	.code64
/* From an exception handler back to the caller of call_user or call_snippet, wherever the code under test stands. */
	.globl leave_snippet
leave_snippet:
	movl	$SELECTOR_DATA, %eax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movq	%rdi, %rax
	movq	%rsi, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbx
	popq	%rbp
	pushq	$0x202                          /* IF; no TF, IOPL 0 again */
	popfq
	ret

/* SYSCALL arrives on the caller's stack; two instructions that a case can watch, and back. */
	.globl syscall_entry, syscall_entry_next
syscall_entry:
	nop
syscall_entry_next:
	nop
	sysretq

/* SYSENTER: the caller left its stack in rcx and its return address in rdx. */
	.globl sysenter_entry, sysenter_entry_next
sysenter_entry:
	nop
sysenter_entry_next:
	sti
	sysexitq
