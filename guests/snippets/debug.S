/* Debug registers, instructions to break on, and values that a host must not be confused by. */
#include "layout.h"
#include "macros.h"

	.text
	.irp n, 0, 1, 2, 3, 6, 7
	simple write_dr\n, movq %rdi, %dr\n
	simple read_dr\n, movq %dr\n, %rax
	.endr

	/* The assembler has no name for DR4 and DR5: 0F 23 /r writes, 0F 21 /r reads. */
	simple write_dr4, .byte 0x0f, 0x23, 0xe7
	simple write_dr5, .byte 0x0f, 0x23, 0xef
	simple read_dr4, .byte 0x0f, 0x21, 0xe0
	simple read_dr5, .byte 0x0f, 0x21, 0xe8

	snippet disarm_store
	movl	$0x400, %eax
	movq	%rax, %dr7
	site disarm_store
	movq	%rsi, (%rdi)
	next disarm_store

	snippet arm_store                       /* rdx: DR7 */
	movq	%rdx, %dr7
	site arm_store
	movq	%rsi, (%rdi)
	next arm_store

/* --- instructions to break on ----------------------------------------------------------------------- */

	simple nop, nop
	simple prefix_nop, .byte 0x66, 0x90
	simple long_mov, movabsq $0x9090909090909090, %rax
	snippet two_nops
	site two_nops
	nop
	nop
	next two_nops

	snippet nop_loop                        /* rdi passes */
1:
	site nop_loop
	nop
	.globl snippet_nop_loop_next
snippet_nop_loop_next:
	decq	%rdi
	jnz	1b
	ret

	snippet add_register                    /* rax: rdi, then rdi + 1 */
	movq	%rdi, %rax
	site add_register
	addq	$1, %rax
	next add_register

	simple add_memory, addq $1, (%rdi)

	/* Ten bytes, three of them on one page and the others on the next. */
	.section .straddle, "ax"
	.balign 4096
	.fill 4096 - 3, 1, 0x90
	.globl snippet_straddle, snippet_straddle_site, snippet_straddle_next
snippet_straddle:
snippet_straddle_site:
	movabsq	$0x9090909090909090, %rax
snippet_straddle_next:
	nop
	ret
	.text

	/* An instruction that exits, and beside it one whose `site` is a NOP that follows such an instruction. */
	.macro exiting name:req, setup:req, insn:req
	snippet \name
	\setup
	site \name
	\insn
	next \name
	snippet \name\()_then_nop
	\setup
	\insn
	site \name\()_then_nop
	nop
	next \name\()_then_nop
	.endm

	exiting cpuid, "xorl %eax, %eax ; xorl %ecx, %ecx", cpuid
	exiting out_80, "movb $0x55, %al", "outb %al, $0x80"
	exiting in_21, nop, "inb $0x21, %al"
	exiting rdmsr, "movl %edi, %ecx", rdmsr

	snippet read_msr                        /* MSR rdi, all 64 bits */
	movl	%edi, %ecx
	site read_msr
	rdmsr
	behind read_msr
	shlq	$32, %rdx
	orq	%rdx, %rax
	ret

	.macro wrmsr_setup                      /* MSR rdi = rsi */
	movl	%edi, %ecx
	movq	%rsi, %rax
	movq	%rsi, %rdx
	shrq	$32, %rdx
	.endm
	exiting wrmsr, wrmsr_setup, wrmsr

	.macro xcr_setup                        /* XCR0 = its present value */
	movq	%cr4, %rax
	orq	$0x40000, %rax                  /* OSXSAVE */
	movq	%rax, %cr4
	xorl	%ecx, %ecx
	xgetbv
	.endm
	exiting xsetbv, xcr_setup, xsetbv

	snippet xgetbv
	xorl	%ecx, %ecx
	site xgetbv
	xgetbv
	next xgetbv

	/* The timer runs periodically with count rdi, so that a tick before the HLT does not leave it asleep. */
	.macro timer_on
	movl	$0xFEE00320, %ebx
	movl	$0x20040, %eax
	movl	%eax, (%rbx)
	movl	$0xFEE00380, %ebx
	movl	%edi, %eax
	movl	%eax, (%rbx)
	.endm

	.macro timer_off
	movl	$0xFEE00380, %ebx
	xorl	%eax, %eax
	movl	%eax, (%rbx)
	.endm

	snippet hlt_timer
	timer_on
	sti
	site hlt_timer
	hlt
	behind hlt_timer
	timer_off
	ret

	snippet hlt_timer_then_nop
	timer_on
	sti
	hlt
	site hlt_timer_then_nop
	nop
	behind hlt_timer_then_nop
	timer_off
	ret

	snippet mmio_load_4_then_nop            /* rdi: address in an emulated page */
	movq	%rdi, %rbx
	movl	(%rbx), %eax
	site mmio_load_4_then_nop
	nop
	next mmio_load_4_then_nop

	snippet iret_then_nop                   /* `site` is where IRET goes */
	movq	%rsp, %rbx
	movl	%ss, %eax
	pushq	%rax
	pushq	%rbx
	pushfq
	movl	%cs, %eax
	pushq	%rax
	leaq	1f(%rip), %rax
	pushq	%rax
	iretq
1:
	site iret_then_nop
	nop
	next iret_then_nop

	snippet lsl                             /* limit of selector rdi, -1 if there is none */
	movq	$-1, %rax
	site lsl
	lsl	%edi, %eax
	next lsl

/* --- values that a host must not be confused by ------------------------------------------------------ */

	.macro write_msr number, value
	movl	$\number, %ecx
	movq	\value, %rax
	movq	\value, %r8
	shrq	$32, %r8
	movl	%r8d, %edx
	wrmsr
	.endm

	.macro read_msr number
	movl	$\number, %ecx
	rdmsr
	shlq	$32, %rdx
	orq	%rdx, %rax
	.endm

	/* GS.base = rdi, kernel GS.base = rsi, FS.base = rdx; the runtime itself uses none of them. */
	snippet hostile_bases
	movq	%rdx, %r9
	write_msr 0xC0000101, %rdi
	write_msr 0xC0000102, %rsi
	site hostile_bases
	write_msr 0xC0000100, %r9
	next hostile_bases

	/* Exclusive or of the three bases, each turned by another amount: equal only if all three are. */
	snippet read_bases
	read_msr 0xC0000101
	movq	%rax, %r9
	read_msr 0xC0000102
	rolq	$13, %rax
	xorq	%rax, %r9
	site read_bases
	read_msr 0xC0000100
	rolq	$29, %rax
	xorq	%r9, %rax
	next read_bases

	/* rsi exits by CPUID with rbp = rdi; the result is rbp afterwards. */
	snippet exits_with_rbp
	movq	%rbp, %r12
	movq	%rdi, %rbp
	site exits_with_rbp
1:	xorl	%eax, %eax
	xorl	%ecx, %ecx
	cpuid
	decq	%rsi
	jnz	1b
	movq	%rbp, %rax
	movq	%r12, %rbp
	next exits_with_rbp

	/*
	 * rsi exits by OUT, each with all registers but rsp set to values made from the seed rdi. The result counts
	 * registers that did not come back.
	 */
	.macro scramble register
	rolq	$7, %rax
	addq	%rdx, %rax
	movq	%rax, \register
	.endm

	.macro compare register
	rolq	$7, %rax
	addq	(%rsp), %rax
	cmpq	%rax, \register
	setne	%cl
	movzbl	%cl, %ecx
	addq	%rcx, 8(%rsp)
	.endm

	snippet fuzz_registers
	pushq	%rbp
	pushq	%rsi                            /* 16(%rsp): exits left */
	pushq	$0                              /* 8(%rsp): mismatches */
	pushq	%rdi                            /* 0(%rsp): seed */
1:	movq	(%rsp), %rdx
	movq	%rdx, %rax
	.irp register, %rbx, %rbp, %rsi, %rdi, %r8, %r9, %r10, %r11, %r12, %r13, %r14, %r15
	scramble \register
	.endr
	movq	$-1, %rcx
	site fuzz_registers
	outb	%al, $0x80
	movq	%rdx, %rax
	cmpq	$-1, %rcx
	setne	%cl
	movzbl	%cl, %ecx
	addq	%rcx, 8(%rsp)
	.irp register, %rbx, %rbp, %rsi, %rdi, %r8, %r9, %r10, %r11, %r12, %r13, %r14, %r15
	compare \register
	.endr
	addq	%rax, (%rsp)                    /* another seed */
	decq	16(%rsp)
	jnz	1b
	popq	%rax
	popq	%rax
	popq	%rcx
	popq	%rbp
	next fuzz_registers
