/*
 * Exceptions outside long mode: each becomes an event in low memory, and the interrupted code goes on at a place that
 * depends on nothing but the vector, as in 64-bit mode.
 */
#include "layout.h"
#include "ops.h"
#include "legacy.h"

#define DR6_BD      0x00002000
#define RFLAGS_RF   0x00010000
#define RFLAGS_TF   0x00000100

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
	/* Virtual-8086 code without IOPL 3 comes back by the fault of its last INT n. */
	cmpl	$MODE_VM86_IOPL0, MODE
	jne	1f
	cmpl	$(leave_vm86 - LOW_CODE), F_EIP
	je	legacy32_exit
1:	call	note_event32
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
