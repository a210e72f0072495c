/* Software exceptions, the shadow of MOV SS, system calls, single steps. */
#include "layout.h"
#include "macros.h"

	.text
	simple int3, int3
	simple icebp, .byte 0xf1
	simple int1, .byte 0xcd, 0x01
	simple int_frame, int $0x81             /* a handler that leaves no record */
	simple ud2, ud2

	snippet int_frame_step                  /* as int_frame, with TF set before */
	step_on
	site int_frame_step
	int	$0x81
	nop
	behind int_frame_step
	step_off
	ret

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
	mov_ss mov_ss_int_frame, int $0x81
	mov_ss mov_ss_ud2, ud2
	mov_ss mov_ss_read_dr0, movq %dr0, %rax
	mov_ss mov_ss_syscall, syscall
	mov_ss mov_ss_mov_ss, movw (%rdi), %ss
	mov_ss mov_ss_load, movq (%rsi), %rax

	snippet mov_ss_cpuid
	xorl	%eax, %eax
	xorl	%ecx, %ecx
	movw	(%rdi), %ss
	site mov_ss_cpuid
	cpuid
	next mov_ss_cpuid

	snippet mov_ss_out
	movb	$0x55, %al
	movw	(%rdi), %ss
	site mov_ss_out
	outb	%al, $0x80
	next mov_ss_out

	snippet mov_ss_hlt                      /* timer count rsi */
	movq	%rdi, %r9
	movq	%rsi, %rdi
	movl	$0xFEE00320, %ebx
	movl	$0x20040, %eax
	movl	%eax, (%rbx)
	movl	$0xFEE00380, %ebx
	movl	%edi, %eax
	movl	%eax, (%rbx)
	movw	(%r9), %ss
	site mov_ss_hlt
	hlt
	behind mov_ss_hlt
	movl	$0xFEE00380, %ebx
	xorl	%eax, %eax
	movl	%eax, (%rbx)
	ret

/* --- DR0-DR3 (rdx, and all bits inverted by turns) and DR6 (rsi), written when no exit follows but that of the
 * instruction under test ---------------------------------------------------------------------------------- */

	.macro change_dr
	movq	%rdx, %dr0
	movq	%rdx, %dr2
	notq	%rdx
	movq	%rdx, %dr1
	movq	%rdx, %dr3
	movq	%rsi, %dr6
	.endm

	snippet change_dr_hlt                   /* timer count rdi */
	movl	$0xFEE00320, %ebx
	movl	$0x20040, %eax
	movl	%eax, (%rbx)
	movl	$0xFEE00380, %ebx
	movl	%edi, %eax
	movl	%eax, (%rbx)
	change_dr
	site change_dr_hlt
	hlt
	behind change_dr_hlt
	movl	$0xFEE00380, %ebx
	xorl	%eax, %eax
	movl	%eax, (%rbx)
	ret

	snippet change_dr_wrmsr                 /* the MSR rdi, with the value that it has */
	movl	%edi, %ecx
	movq	%rdx, %r8
	rdmsr
	movq	%rdx, %r9
	movq	%r8, %rdx
	change_dr
	movq	%r9, %rdx
	site change_dr_wrmsr
	wrmsr
	next change_dr_wrmsr

	snippet mov_ss_sysenter
	movq	%rsp, %rcx
	leaq	snippet_mov_ss_sysenter_next(%rip), %rdx
	movw	(%rdi), %ss
	site mov_ss_sysenter
	sysenter
	next mov_ss_sysenter

	snippet lss_nop                         /* (rdi): offset (4 bytes), selector; opens no shadow */
	movq	%rsp, %rbx
	lss	(%rdi), %esp
	site lss_nop
	nop
	behind lss_nop
	movq	%rbx, %rsp
	ret

/* --- system calls, from CPL 3; set up at CPL 0 by syscall_setup ------------------------------------- */

	.macro write_msr number, low, high
	movl	$\number, %ecx
	movl	\low, %eax
	movl	\high, %edx
	wrmsr
	.endm

	snippet syscall_setup                   /* rdi: RFLAGS bits that SYSCALL clears */
	write_msr 0xC0000081, $0, $((SELECTOR_USER32 & ~3) << 16 | SELECTOR_SYSCALL)
	write_msr 0xC0000082, $syscall_entry, $0
	site syscall_setup
	write_msr 0xC0000084, %edi, $0
	next syscall_setup

	snippet sysenter_setup
	write_msr 0x174, $SELECTOR_SYSCALL, $0
	write_msr 0x175, $(STACKS + 3 * STACK_SIZE - 0x1000), $0
	site sysenter_setup
	write_msr 0x176, $sysenter_entry, $0
	next sysenter_setup

	simple syscall, syscall

	snippet sysenter
	movq	%rsp, %rcx
	leaq	snippet_sysenter_next(%rip), %rdx
	site sysenter
	sysenter
	next sysenter

/* --- single step: TF is set by the POPF before `site` and cleared by the one behind `next` ----------- */

	.macro step name:req, setup:req, body:req
	snippet step_\name
	\setup
	step_on
	site step_\name
	\body
	.globl snippet_step_\name\()_next
snippet_step_\name\()_next:
	step_off
	ret
	.endm

	step nops, "nop", "nop ; nop ; nop ; nop"
	step cpuid, "xorl %eax, %eax ; xorl %ecx, %ecx", "cpuid ; nop"
	step rdmsr, "movl %edi, %ecx", "rdmsr ; nop"
	step out, "movb $0x55, %al", "outb %al, $0x80 ; nop"
	step in, "nop", "inb $0x21, %al ; nop"
	step store, "nop", "movq %rsi, (%rdi) ; nop"
	step int3, "nop", "int3 ; nop"
	step icebp, "nop", ".byte 0xf1 ; nop"
	step cr0, "movq %cr0, %rax", "movq %rax, %cr0 ; nop"
	step cr3, "movq %cr3, %rax", "movq %rax, %cr3 ; nop"
	step cr4, "movq %cr4, %rax ; xorq $0x80, %rax", "movq %rax, %cr4 ; nop"
	step mmio_load, "movq %rdi, %rbx", "movl (%rbx), %eax ; nop"
	step mmio_store, "movq %rdi, %rbx ; movl %esi, %eax", "movl %eax, (%rbx) ; nop"
	step cli, "nop", "cli ; nop"
	step sti, "cli", "sti ; nop"
	step mov_ss, "nop", "movw (%rdi), %ss ; nop ; nop"
	step two_mov_ss, "nop", "movw (%rdi), %ss ; movw (%rdi), %ss ; nop ; nop"
	step rep_stosb, "movq %rdx, %rcx ; movq %rsi, %rax", "rep stosb ; nop"
	step rep_movsb, "movq %rdx, %rcx", "rep movsb ; nop"
	step syscall, "nop", "syscall ; nop"
	step pushf, "nop", "pushfq ; popq %rax"
	step sti_cpuid, "cli ; xorl %eax, %eax ; xorl %ecx, %ecx", "sti ; cpuid ; nop"
	step mov_ss_cpuid, "xorl %eax, %eax ; xorl %ecx, %ecx", "movw (%rdi), %ss ; cpuid ; nop"
	step mov_ss_icebp, "nop", "movw (%rdi), %ss ; .byte 0xf1 ; nop"

	.macro wrmsr_values
	movl	%edi, %ecx
	movq	%rsi, %rax
	movq	%rsi, %rdx
	shrq	$32, %rdx
	.endm
	step wrmsr, wrmsr_values, "wrmsr ; nop"

	.macro xcr_values
	movq	%cr4, %rax
	orq	$0x40000, %rax
	movq	%rax, %cr4
	xorl	%ecx, %ecx
	xgetbv
	.endm
	step xsetbv, xcr_values, "xsetbv ; nop"

	.macro timer_values                     /* timer count rdi */
	movl	$0xFEE00320, %ebx
	movl	$0x20040, %eax
	movl	%eax, (%rbx)
	movl	$0xFEE00380, %ebx
	movl	%edi, %eax
	movl	%eax, (%rbx)
	.endm

	snippet step_hlt
	timer_values
	step_on
	site step_hlt
	hlt
	nop
	.globl snippet_step_hlt_next
snippet_step_hlt_next:
	step_off
	movl	$0xFEE00380, %ebx
	xorl	%eax, %eax
	movl	%eax, (%rbx)
	ret

	snippet step_sti_hlt
	timer_values
	cli
	step_on
	site step_sti_hlt
	sti
	hlt
	.globl snippet_step_sti_hlt_next
snippet_step_sti_hlt_next:
	step_off
	movl	$0xFEE00380, %ebx
	xorl	%eax, %eax
	movl	%eax, (%rbx)
	ret

	snippet step_loop                       /* rdi passes of two instructions each */
	step_on
	site step_loop
1:	decq	%rdi
	jnz	1b
	.globl snippet_step_loop_next
snippet_step_loop_next:
	step_off
	ret

	snippet step_iret                       /* TF comes with IRET: the first trap is behind the NOP at `site` */
	movq	%rsp, %rbx
	movl	%ss, %eax
	pushq	%rax
	pushq	%rbx
	pushfq
	orq	$0x100, (%rsp)
	movl	%cs, %eax
	pushq	%rax
	leaq	1f(%rip), %rax
	pushq	%rax
	iretq
1:
	site step_iret
	nop
	.globl snippet_step_iret_next
snippet_step_iret_next:
	step_off
	ret
