/*
 * Entry points of all 256 vectors, and the call of a snippet.
 *
 * Each vector pushes its number (and a zero where the processor pushes no error code), saves the general
 * registers and calls handle_vector(struct frame *).
 */
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
 * uint64_t call_snippet(uint64_t rdi, uint64_t rsi, uint64_t rdx, uint64_t code, uint64_t *stack)
 *
 * Callee-saved registers are saved around it, so that a snippet may use all of them. What is on the stack is left at
 * *stack, for leave_snippet.
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
	movq	%rsp, (%r8)
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

/* A handler that leaves no record, for cases about the frame itself: vector 0x81. */
	.globl frame_handler, frame_handler_next
frame_handler:
	nop
frame_handler_next:
	iretq
