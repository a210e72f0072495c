/*
 * Entry points of all 256 vectors, and the way to CPL 3 and back.
 *
 * Each vector pushes its number (and a zero where the processor pushes no error code), saves the general
 * registers and calls handle_vector(struct frame *).
 */
#include "layout.h"

	.text
	.altmacro
	.macro isr_entry vector
	.align 16
	.if (\vector == 8) || ((\vector >= 10) && (\vector <= 14)) || (\vector == 17) || (\vector == 21)
	.else
	pushq	$0
	.endif
	pushq	$\vector
	jmp	isr_common
	.endm

	.align 16
	.globl isr_table
isr_table:
	.set vector, 0
	.rept 256
	isr_entry %vector
	.set vector, vector + 1
	.endr

	.align 16
isr_common:
	pushq	%rax
	pushq	%rcx
	pushq	%rdx
	pushq	%rbx
	pushq	%rbp
	pushq	%rsi
	pushq	%rdi
	pushq	%r8
	pushq	%r9
	pushq	%r10
	pushq	%r11
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	%rsp, %rdi
	cld
	call	handle_vector
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%r11
	popq	%r10
	popq	%r9
	popq	%r8
	popq	%rdi
	popq	%rsi
	popq	%rbp
	popq	%rbx
	popq	%rdx
	popq	%rcx
	popq	%rax
	addq	$16, %rsp
	iretq

/*
 * uint64_t call_snippet(uint64_t rdi, uint64_t rsi, uint64_t rdx, const void *code)
 *
 * Callee-saved registers are saved around it, so that a snippet may use all of them.
 */
	.globl call_snippet
call_snippet:
	pushq	%rbp
	movq	%rsp, %rbp
	pushq	%rbx
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	subq	$8, %rsp
	movq	%rcx, %r10
	xorl	%eax, %eax
	call	*%r10
	cld
	addq	$8, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbx
	popq	%rbp
	ret

/*
 * uint64_t call_snippet_user(uint64_t rdi, uint64_t rsi, uint64_t rdx, const void *code, uint64_t user_stack)
 *
 * Runs the snippet at CPL 3. It comes back through vector 0x80, whose handler calls leave_user.
 */
	.globl call_snippet_user
call_snippet_user:
	pushq	%rbp
	movq	%rsp, %rbp
	pushq	%rbx
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	%rsp, kernel_stack_of_user(%rip)
	leaq	user_return(%rip), %rax
	subq	$8, %r8
	movq	%rax, (%r8)                     /* the snippet's return address */
	pushq	$0x33                           /* SS, CPL 3 */
	pushq	%r8
	pushfq
	orq	$0x3200, (%rsp)                 /* IF, IOPL 3: port accesses of user snippets are allowed */
	pushq	$0x2B                           /* CS, CPL 3, 64-bit */
	pushq	%rcx
	xorl	%eax, %eax
	iretq
user_return:
	int	$0x80

	/* Called by the handler of vector 0x80 with the user's rax: back to the caller of call_snippet_user. */
	.globl leave_user
leave_user:
	movq	%rdi, %rax
	movq	kernel_stack_of_user(%rip), %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbx
	popq	%rbp
	cld
	sti
	ret

	.bss
	.align 8
kernel_stack_of_user:
	.quad	0
