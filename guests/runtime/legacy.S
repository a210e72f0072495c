/*
 * Out of long mode, through one snippet, and back.
 *
 * struct legacy at LEGACY and the events behind it are reached with small absolute addresses in every mode.
 */
#include "layout.h"
#include "ops.h"

#define CR0_PE      0x00000001
#define CR0_PG      0x80000000
#define DR6_BD      0x00002000
#define RFLAGS_RF   0x00010000
#define RFLAGS_TF   0x00000100
#define VM86_FLAGS  0x00023002          /* VM, IOPL 3 */
#define LOW_SEGMENT (LOW_CODE >> 4)

/* struct legacy */
#define MODE        (LEGACY + 0)
#define CODE        (LEGACY + 4)
#define EDI         (LEGACY + 8)
#define ESI         (LEGACY + 12)
#define EDX         (LEGACY + 16)
#define EAX         (LEGACY + 20)
#define FLAGS       (LEGACY + 24)
#define VALUE_AT    (LEGACY + 28)
#define SITE        (LEGACY + 32)
#define NEXT        (LEGACY + 36)
#define DATA        (LEGACY + 40)
#define COUNT       (LEGACY + 44)
#define ABORT       (LEGACY + 48)
#define BASE        (LEGACY + 52)
#define RSP         (LEGACY + 64)
/* the interrupted code, while its event is noted */
#define F_VECTOR    (LEGACY + 80)
#define F_ERROR     (LEGACY + 84)
#define F_EIP       (LEGACY + 88)
#define F_CS        (LEGACY + 92)
#define F_EFLAGS    (LEGACY + 96)
#define F_EAX       (LEGACY + 100)

	.text
	.code64
	.globl enter_legacy
enter_legacy:
	pushq	%rbp
	movq	%rsp, %rbp
	pushq	%rbx
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	pushfq
	cli
	subq	$16, %rsp
	sidt	(%rsp)
	movq	%rsp, RSP
	pushq	$SELECTOR_CODE32
	leaq	legacy32(%rip), %rax
	pushq	%rax
	lretq

back64:
	movq	RSP, %rsp
	lidt	(%rsp)
	addq	$16, %rsp
	andb	$~2, gdt + SELECTOR_TSS64 + 5   /* no longer busy */
	movw	$SELECTOR_TSS64, %ax
	ltr	%ax
	cld
	popfq
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbx
	popq	%rbp
	ret

	.code32
legacy32:
	movw	$SELECTOR_DATA, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	%ax, %fs
	movw	%ax, %gs
	movl	$LOW_STACK, %esp
	movl	%cr0, %eax
	andl	$~CR0_PG, %eax
	movl	%eax, %cr0
	lidt	legacy_idtr
	movw	$SELECTOR_TSS32, %ax
	ltr	%ax
	movl	MODE, %eax
	cmpl	$MODE_PROT16, %eax
	je	1f
	cmpl	$MODE_REAL, %eax
	je	2f
	cmpl	$MODE_VM86, %eax
	je	3f
	/* 32-bit code at CPL 0 */
	movw	DATA, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movl	%ss:EDI, %edi
	movl	%ss:ESI, %esi
	movl	%ss:EDX, %edx
	xorl	%eax, %eax
	call	*%ss:CODE
	movl	%eax, %ss:EAX
	jmp	legacy32_exit
1:	ljmpl	$SELECTOR_CODE16, $(common16 - LOW_CODE)
2:	ljmpl	$SELECTOR_CODE16, $(to_real - LOW_CODE)
3:	pushl	$0                              /* gs, fs, ds, es, ss */
	pushl	$0
	pushl	$0
	pushl	$0
	pushl	$0
	pushl	$VM86_STACK
	pushl	$VM86_FLAGS
	pushl	$LOW_SEGMENT
	pushl	$(common16 - LOW_CODE)
	iretl

	/* Virtual-8086 code comes here by a software interrupt. */
	.globl stub_return
stub_return:
legacy32_exit:
	movw	$SELECTOR_DATA, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movl	$LOW_STACK, %esp
	movl	%cr0, %eax
	orl	$CR0_PG, %eax
	movl	%eax, %cr0
	ljmpl	$SELECTOR_CODE64, $back64

	/* What the second task does: one instruction that a case can watch, then back to the first one. */
	.globl task_entry, task_entry_next
task_entry:
	nop
task_entry_next:
	iretl
	jmp	task_entry

	.section .low, "ax"
	.code16
	/* All 16-bit modes: CS has base LOW_CODE, SS base 0. */
common16:
	movw	%ss:DATA, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movl	%ss:EDI, %edi
	movl	%ss:ESI, %esi
	movl	%ss:EDX, %edx
	movw	%ss:CODE, %bx
	xorl	%eax, %eax
	call	*%bx
	movl	%eax, %ss:EAX
leave16:
	movl	%ss:MODE, %eax
	cmpl	$MODE_REAL, %eax
	je	from_real
	cmpl	$MODE_VM86, %eax
	je	1f
	ljmpl	$SELECTOR_CODE32, $legacy32_exit
1:	int	$0x20

to_real:
	movw	$SELECTOR_DATA64K, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	%ax, %fs
	movw	%ax, %gs
	movl	%cr0, %eax
	andl	$~CR0_PE, %eax
	movl	%eax, %cr0
	ljmpw	$LOW_SEGMENT, $(1f - LOW_CODE)
1:	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	%ax, %fs
	movw	%ax, %gs
	movw	$LOW_STACK, %sp
	lidtl	%cs:(real_idtr - LOW_CODE)
	jmp	common16

from_real:
	movl	%cr0, %eax
	orl	$CR0_PE, %eax
	movl	%eax, %cr0
	ljmpl	$SELECTOR_CODE32, $legacy32_exit

	.align 8
real_idtr:
	.word	0x3FF
	.long	0

	.data
	.align 8
legacy_idtr:
	.word	33 * 8 - 1
	.long	legacy_idt

/*
 * Notes one event, decides how the interrupted code goes on (F_EIP, F_EFLAGS), with zero-based DS. The same text is
 * assembled for real mode and for protected mode.
 */
	.macro note_event bits
note_event\bits:
	movl	F_EIP, %edi                     /* edi: linear address */
	cmpl	$SELECTOR_CODE32, F_CS
	je	1f
	addl	BASE, %edi
1:	movl	COUNT, %ebx
	incl	COUNT
	cmpl	$LEGACY_EVENTS_MAX, %ebx
	jb	2f
	movl	$(LEGACY_EVENTS_MAX - 1), %ebx
2:	shll	$6, %ebx
	addl	$LEGACY_EVENTS, %ebx
	movl	F_VECTOR, %eax
	movl	%eax, (%ebx)
	movl	%edi, 4(%ebx)
	movl	F_CS, %eax
	movl	%eax, 8(%ebx)
	movl	F_EFLAGS, %eax
	movl	%eax, 12(%ebx)
	movl	F_ERROR, %eax
	movl	%eax, 16(%ebx)
	movl	F_EAX, %eax
	movl	%eax, 28(%ebx)
	movl	%dr6, %ecx
	movl	%ecx, 20(%ebx)
	movl	%dr7, %edx
	movl	%edx, 24(%ebx)
	/* Breakpoints off: reading the watched value must not be an event of its own. */
	movl	$0x400, %eax
	movl	%eax, %dr7
	movl	VALUE_AT, %esi
	cmpl	$0xFFF8, %esi
	ja	3f
	movl	(%esi), %eax
	movl	%eax, 32(%ebx)
	movl	4(%esi), %eax
	movl	%eax, 36(%ebx)
3:	cmpl	$1, F_VECTOR
	jne	7f
	testl	$HANDLER_CLEAR_TF, FLAGS
	jz	4f
	andl	$~RFLAGS_TF, F_EFLAGS
4:	testl	$DR6_BD, %ecx
	jz	5f
	cmpl	SITE, %edi
	jne	6f
	movl	NEXT, %eax
	subl	SITE, %eax
	addl	%eax, F_EIP
	jmp	6f
	/* An enabled instruction breakpoint among the reported ones: let the instruction run once. */
5:	testl	$1, %ecx
	jz	51f
	testl	$0x3, %edx
	jz	51f
	testl	$0x000F0000, %edx
	jz	55f
51:	testl	$2, %ecx
	jz	52f
	testl	$0xC, %edx
	jz	52f
	testl	$0x00F00000, %edx
	jz	55f
52:	testl	$4, %ecx
	jz	53f
	testl	$0x30, %edx
	jz	53f
	testl	$0x0F000000, %edx
	jz	55f
53:	testl	$8, %ecx
	jz	6f
	testl	$0xC0, %edx
	jz	6f
	testl	$0xF0000000, %edx
	jnz	6f
55:	testl	$HANDLER_NO_RF, FLAGS
	jnz	6f
	orl	$RFLAGS_RF, F_EFLAGS
6:	testl	$HANDLER_KEEP_DR6, FLAGS
	jnz	9f
	movl	$0xFFFF0FF0, %eax
	movl	%eax, %dr6
	jmp	9f
7:	cmpl	$3, F_VECTOR
	je	9f
	cmpl	SITE, %edi                      /* a fault at the instruction under test: skip it */
	jne	8f
	movl	NEXT, %eax
	subl	SITE, %eax
	addl	%eax, F_EIP
	jmp	9f
8:	movl	$1, ABORT
9:	testl	$HANDLER_DISARM, FLAGS
	jz	10f
	movl	$0x400, %edx
10:	movl	%edx, %dr7
	ret
	.endm

	.text
	.code32
	note_event 32

	.altmacro
	.macro stub32 vector
	.align 16
	.if (\vector == 8) || ((\vector >= 10) && (\vector <= 14)) || (\vector == 17) || (\vector == 21)
	.else
	pushl	$0
	.endif
	pushl	$\vector
	jmp	exception32
	.endm

	.align 16
	.globl stubs32
stubs32:
	.set vector, 0
	.rept 32
	stub32 %vector
	.set vector, vector + 1
	.endr

exception32:
	pushal
	pushl	%ds
	pushl	%es
	movw	$SELECTOR_DATA, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movl	40(%esp), %eax
	movl	%eax, F_VECTOR
	movl	44(%esp), %eax
	movl	%eax, F_ERROR
	movl	48(%esp), %eax
	movl	%eax, F_EIP
	movl	52(%esp), %eax
	movl	%eax, F_CS
	movl	56(%esp), %eax
	movl	%eax, F_EFLAGS
	movl	36(%esp), %eax
	movl	%eax, F_EAX
	call	note_event32
	cmpl	$0, ABORT
	jne	legacy32_exit
	movl	F_EIP, %eax
	movl	%eax, 48(%esp)
	movl	F_EFLAGS, %eax
	movl	%eax, 56(%esp)
	popl	%es
	popl	%ds
	popal
	addl	$8, %esp
	iretl

	.section .low, "ax"
	.code16
	note_event 16

	.macro stub16 vector
	.align 8
	pushw	$\vector
	jmp	exception16
	.endm

	.align 8
	.globl stubs16
stubs16:
	.set vector, 0
	.rept 32
	stub16 %vector
	.set vector, vector + 1
	.endr

exception16:
	pushal
	pushw	%ds
	pushw	%es
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%sp, %bp
	movzwl	36(%bp), %eax
	movl	%eax, F_VECTOR
	movzwl	38(%bp), %eax
	movl	%eax, F_EIP
	movzwl	40(%bp), %eax
	movl	%eax, F_CS
	movzwl	42(%bp), %eax
	movl	%eax, F_EFLAGS
	movl	$0, F_ERROR
	movl	32(%bp), %eax
	movl	%eax, F_EAX
	call	note_event16
	cmpl	$0, ABORT
	jne	leave16
	popw	%es
	popw	%ds
	popal
	/* Only a 32-bit frame can carry RF. */
	addw	$8, %sp
	pushl	%ss:F_EFLAGS
	pushl	%ss:F_CS
	pushl	%ss:F_EIP
	iretl
