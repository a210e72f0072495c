/*
 * The instruction sequences of include/snippets.h.
 *
 * Arguments in rdi, rsi, rdx; result in rax. `site` is the instruction under test, `next` the one behind it
 * (for stepping snippets: the first and the one behind the last). A fault at `site` resumes at `next`.
 */
#define SNIPPET(name) .quad snippet_##name, snippet_##name##_site, snippet_##name##_next ;
	.section .snippets, "a"
#include "snippets.h"
#undef SNIPPET

	.text

	.macro snippet name
	.align 16
	.globl snippet_\name
snippet_\name:
	.endm

	.macro site name
	.globl snippet_\name\()_site
snippet_\name\()_site:
	.endm

	/* Ends a snippet: `next` is a NOP of its own, so that a trap there is told from one in the caller. */
	.macro next name
	.globl snippet_\name\()_next
snippet_\name\()_next:
	nop
	ret
	.endm

	.macro simple name:req, insn:vararg
	snippet \name
	site \name
	\insn
	next \name
	.endm

/* --- accesses to (rdi) ------------------------------------------------------------------------------ */

	simple store_mov_1, movb %sil, (%rdi)
	simple store_mov_2, movw %si, (%rdi)
	simple store_mov_4, movl %esi, (%rdi)
	simple store_mov_8, movq %rsi, (%rdi)

	snippet store_mov_16
	movq	%rsi, %xmm0
	punpcklqdq %xmm0, %xmm0
	site store_mov_16
	movups	%xmm0, (%rdi)
	next store_mov_16

	simple load_mov_1, movzbl (%rdi), %eax
	simple load_mov_2, movzwl (%rdi), %eax
	simple load_mov_4, movl (%rdi), %eax
	simple load_mov_8, movq (%rdi), %rax

	snippet load_mov_16
	site load_mov_16
	movups	(%rdi), %xmm0
	next load_mov_16

	simple store_xchg_8, xchgq %rsi, (%rdi)
	simple store_lock_add_8, lock addq %rsi, (%rdi)

	snippet store_cmpxchg_8                 /* compares with rdx, stores rsi when equal */
	movq	%rdx, %rax
	site store_cmpxchg_8
	lock cmpxchgq %rsi, (%rdi)
	next store_cmpxchg_8

	snippet store_push_8                    /* the quadword at rdi is where the PUSH stores */
	movq	%rsp, %rbx
	leaq	8(%rdi), %rsp
	site store_push_8
	pushq	%rsi
	.globl snippet_store_push_8_next
snippet_store_push_8_next:
	nop
	movq	%rbx, %rsp
	ret

	snippet store_stosb
	movq	%rsi, %rax
	site store_stosb
	stosb
	next store_stosb

	snippet store_stosq
	movq	%rsi, %rax
	site store_stosq
	stosq
	next store_stosq

	simple copy_movsb, movsb
	simple copy_movsq, movsq

	snippet rep_stosb                       /* rdx bytes at rdi */
	movq	%rdx, %rcx
	movq	%rsi, %rax
	site rep_stosb
	rep stosb
	next rep_stosb

	snippet rep_movsb                       /* rdx bytes from rsi to rdi */
	movq	%rdx, %rcx
	site rep_movsb
	rep movsb
	next rep_movsb

/* --- debug registers -------------------------------------------------------------------------------- */

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

	.macro exiting name:req, setup:req, insn:req
	snippet \name
	\setup
	site \name
	\insn
	next \name
	snippet \name\()_then_nop              /* `next` is the instruction behind the NOP that follows */
	\setup
	\insn
	site \name\()_then_nop
	nop
	next \name\()_then_nop
	.endm

	exiting cpuid, "xorl %eax, %eax ; xorl %ecx, %ecx", cpuid
	exiting out_80, "movb $0x55, %al", "outb %al, $0x80"
	exiting rdmsr, "movl %edi, %ecx", rdmsr
	simple in_21, inb $0x21, %al

	snippet wrmsr                           /* MSR rdi = rsi */
	movl	%edi, %ecx
	movq	%rsi, %rax
	movq	%rsi, %rdx
	shrq	$32, %rdx
	site wrmsr
	wrmsr
	next wrmsr

	snippet xgetbv
	xorl	%ecx, %ecx
	site xgetbv
	xgetbv
	next xgetbv

	snippet xsetbv                          /* XCR0 = its present value */
	movq	%cr4, %rax
	orq	$0x40000, %rax                  /* OSXSAVE */
	movq	%rax, %cr4
	xorl	%ecx, %ecx
	xgetbv
	site xsetbv
	xsetbv
	next xsetbv

	/* The timer runs periodically with count rdi, so that a tick before the HLT does not leave it asleep. */
	snippet hlt_timer
	movl	$0xFEE00320, %ebx
	movl	$0x20040, %eax
	movl	%eax, (%rbx)
	movl	$0xFEE00380, %ebx
	movl	%edi, %eax
	movl	%eax, (%rbx)
	sti
	site hlt_timer
	hlt
	.globl snippet_hlt_timer_next
snippet_hlt_timer_next:
	nop
	movl	$0xFEE00380, %ebx
	xorl	%eax, %eax
	movl	%eax, (%rbx)
	ret

/* --- software exceptions ---------------------------------------------------------------------------- */

	simple int3, int3
	simple icebp, .byte 0xf1
	simple int1, .byte 0xcd, 0x01
	simple ud2, ud2

/* --- the shadow of MOV SS; (rdi) holds a stack selector --------------------------------------------- */

	.macro mov_ss name:req, insn:vararg
	snippet \name
	movw	(%rdi), %ss
	site \name
	\insn
	next \name
	.endm

	mov_ss mov_ss_nop, nop
	mov_ss mov_ss_int3, int3
	mov_ss mov_ss_int1, .byte 0xcd, 0x01
	mov_ss mov_ss_icebp, .byte 0xf1

	snippet mov_ss_cpuid
	xorl	%eax, %eax
	xorl	%ecx, %ecx
	movw	(%rdi), %ss
	site mov_ss_cpuid
	cpuid
	next mov_ss_cpuid

/* --- single step: TF is set by the POPF before `site` and cleared by the one behind `next` ----------- */

	.macro step name:req, setup:req, body:req
	snippet step_\name
	\setup
	pushfq
	orq	$0x100, (%rsp)
	popfq
	site step_\name
	\body
	.globl snippet_step_\name\()_next
snippet_step_\name\()_next:
	pushfq
	andq	$~0x100, (%rsp)
	popfq
	ret
	.endm

	step nops, "nop", "nop ; nop ; nop ; nop"
	step cpuid, "xorl %eax, %eax ; xorl %ecx, %ecx", "cpuid ; nop"
	step rdmsr, "movl %edi, %ecx", "rdmsr ; nop"
	step out, "movb $0x55, %al", "outb %al, $0x80 ; nop"
	step in, "nop", "inb $0x21, %al ; nop"
	step store, "nop", "movq %rsi, (%rdi) ; nop"
	step int3, "nop", "int3 ; nop"

	snippet step_loop                       /* rdi passes of two instructions each */
	pushfq
	orq	$0x100, (%rsp)
	popfq
	site step_loop
1:	decq	%rdi
	jnz	1b
	.globl snippet_step_loop_next
snippet_step_loop_next:
	pushfq
	andq	$~0x100, (%rsp)
	popfq
	ret

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
