/* Entry of both processors, thread switching, interrupt entry. */
	.section .start, "ax"
	.globl	start
start:
	cld
	movabsq	$bss_start, %rdi
	movabsq	$bss_end, %rcx
	subq	%rdi, %rcx
	shrq	$3, %rcx
	xorl	%eax, %eax
	rep stosq
	leaq	boot_stack_end(%rip), %rsp
	xorl	%ebp, %ebp
	call	kmain
1:	hlt
	jmp	1b

	.text
/* void cpu_switch(uint64_t *save_rsp, uint64_t load_rsp): callee-saved registers and RFLAGS travel on the stacks. */
	.globl	cpu_switch
cpu_switch:
	pushq	%rbp
	pushq	%rbx
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	%rsp, (%rdi)
	movq	%rsi, %rsp
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbx
	popq	%rbp
	ret

	.globl	thread_trampoline
thread_trampoline:
	xorl	%ebp, %ebp
	call	thread_start
	ud2

	.altmacro
	.macro vector_entry n
	.align 16
	.if (\n == 8) || ((\n >= 10) && (\n <= 14)) || (\n == 17) || (\n == 21)
	.else
	pushq	$0
	.endif
	pushq	$\n
	jmp	trap_common
	.endm
	.align 16
	.globl	vector_table
vector_table:
	.set	n, 0
	.rept	256
	vector_entry %n
	.set	n, n + 1
	.endr

	.align 16
	.globl	trap_common
trap_common:
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
	call	trap
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

	/* int msr_try(uint32_t msr, uint64_t *value, int write): 0; the #GP handler sends a fault to msr_fault. */
	.globl	msr_try, msr_try_read, msr_try_write, msr_fault
msr_try:
	movl	%edi, %ecx
	movq	%rsi, %r8
	testl	%edx, %edx
	jnz	1f
msr_try_read:
	rdmsr
	movl	%eax, (%r8)
	movl	%edx, 4(%r8)
	xorl	%eax, %eax
	ret
1:	movl	(%r8), %eax
	movl	4(%r8), %edx
msr_try_write:
	wrmsr
	xorl	%eax, %eax
	ret
msr_fault:
	movl	$14, %eax
	ret

	/* Where the second processor starts, copied to 0x8000: real mode to long mode on the tables of the first. */
	.globl	ap_trampoline, ap_trampoline_end
	.code16
ap_trampoline:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	lgdtl	0x8000 + ap_gdtr - ap_trampoline
	movl	$0x620, %eax
	movl	%eax, %cr4
	movl	$0x1000, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx
	rdmsr
	orl	$0x100, %eax
	wrmsr
	movl	$0x80000033, %eax
	movl	%eax, %cr0
	ljmpl	$0x08, $(0x8000 + ap_long - ap_trampoline)
	.code64
ap_long:
	movw	$0x10, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	leaq	ap_stack_end, %rsp
	xorl	%ebp, %ebp
	movq	$ap_main, %rax
	call	*%rax
	.align 8
ap_gdt:	.quad	0
	.quad	0x00af9b000000ffff
	.quad	0x00cf93000000ffff
ap_gdtr:
	.word	. - ap_gdt - 1
	.long	0x8000 + ap_gdt - ap_trampoline
ap_trampoline_end:

	.bss
	.align	16
	.skip	16384
boot_stack_end:
	.skip	16384
ap_stack_end:
