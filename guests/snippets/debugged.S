/* Code that a debugger can set breakpoints in: copied to RAM, as the ROM takes none, and called there. */
#include "layout.h"
#include "macros.h"

	.text
	/* copy_NAME puts the code at rdi; `call` runs it. */
	.macro copied name:req, body:req
	snippet copy_\name
	leaq	8f(%rip), %rsi
	movl	$(9f - 8f), %ecx
	site copy_\name
	rep movsb
	next copy_\name
8:
	\body
	ret
9:
	.endm

	simple call, call *%rdi

	copied nops, "nop ; nop ; nop ; nop ; nop ; nop ; nop ; nop"
	copied open_nops, "sti ; nop ; nop ; nop ; nop ; nop ; nop ; nop ; nop ; cli"

	/* Images of RFLAGS in rax: as PUSHF stores it, behind an IRET that took it from there, as SYSCALL leaves it in r11. */
	copied pushf, "pushfq ; popq %rax"
	copied syscall, "syscall ; movq %r11, %rax"

	snippet copy_iret
	leaq	8f(%rip), %rsi
	movl	$(9f - 8f), %ecx
	site copy_iret
	rep movsb
	next copy_iret
8:
	movq	%rsp, %rdx
	movl	%ss, %eax
	pushq	%rax
	pushq	%rdx
	pushfq
	movl	%cs, %eax
	pushq	%rax
	leaq	1f(%rip), %rax
	pushq	%rax
	iretq
1:
	pushfq
	popq	%rax
	ret
9:

	/* The local APIC's timer, periodic with count rdi; 0 ends it. */
	snippet timer
	movl	$0xFEE00320, %ebx
	movl	$0x20040, %eax
	movl	%eax, (%rbx)
	movl	$0xFEE00380, %ebx
	site timer
	movl	%edi, (%rbx)
	next timer

	.section .note.GNU-stack, "", @progbits
