/*
 * Out of long mode, through one snippet, and back.
 *
 * struct legacy at LEGACY and the events behind it are reached with small absolute addresses in every mode.
 */
#include "layout.h"
#include "ops.h"
#include "legacy.h"

#define CR0_PE      0x00000001
#define CR0_PG      0x80000000
#define VM86_FLAGS  0x00020002          /* VM */
#define IOPL3       0x00003000
#define RFLAGS_TF   0x00000100
#define LOW_SEGMENT (LOW_CODE >> 4)

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
	movl	$(VM86_FLAGS | IOPL3), %ecx
	cmpl	$MODE_VM86, %eax
	je	3f
	movl	$VM86_FLAGS, %ecx
	cmpl	$MODE_VM86_IOPL0, %eax
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
	pushl	%ecx
	pushl	$LOW_SEGMENT
	pushl	$(common16 - LOW_CODE)
	iretl

	/* Virtual-8086 code comes here by a software interrupt. */
	.globl stub_return, legacy32_exit
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

	/*
	 * A debug exception through a task gate: what the processor kept of the interrupted task is an event as every other,
	 * and beside it the flags and the link of this one. It steps no further.
	 */
	.globl task_debug
task_debug:
	pushfl
	popl	%ecx
	movl	COUNT, %ebx
	incl	COUNT
	cmpl	$LEGACY_EVENTS_MAX, %ebx
	jb	1f
	movl	$(LEGACY_EVENTS_MAX - 1), %ebx
1:	shll	$6, %ebx
	addl	$LEGACY_EVENTS, %ebx
	movl	$1, (%ebx)
	movl	legacy_tasks + TASK_EIP, %eax
	movl	%eax, 4(%ebx)
	movl	legacy_tasks + TASK_CS, %eax
	movl	%eax, 8(%ebx)
	movl	legacy_tasks + TASK_EFLAGS, %eax
	movl	%eax, 12(%ebx)
	movl	%ecx, 16(%ebx)
	movl	%dr6, %eax
	movl	%eax, 20(%ebx)
	movl	%dr7, %eax
	movl	%eax, 24(%ebx)
	movzwl	legacy_tasks + TASK_SIZE, %eax
	movl	%eax, 28(%ebx)
	movl	$0, 32(%ebx)
	movl	$0, 36(%ebx)
	movl	$0xFFFF0FF0, %eax
	movl	%eax, %dr6
	andl	$~RFLAGS_TF, legacy_tasks + TASK_EFLAGS
	iretl
	jmp	task_debug

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
	.globl leave16
leave16:
	movl	%ss:MODE, %eax
	cmpl	$MODE_REAL, %eax
	je	from_real
	cmpl	$MODE_VM86, %eax
	je	leave_vm86
	cmpl	$MODE_VM86_IOPL0, %eax
	je	leave_vm86
	ljmpl	$SELECTOR_CODE32, $legacy32_exit
	.globl leave_vm86
leave_vm86:
	int	$0x20                           /* or #GP here, see exception32 */

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
