/* Snippets of 32-bit code, and those that exist in 32-bit code only. */
#include "layout.h"

#define MEM (%edi)
#define STORE "movl %esi, (%edi)"

	.text
	.code32
	.macro snippet name
	.align 16
	.globl s32_\name
s32_\name:
	.endm

	.macro site name
	.globl s32_\name\()_site
s32_\name\()_site:
	.endm

	.macro after name
	.globl s32_\name\()_next
s32_\name\()_next:
	.endm

	.macro next name
	after \name
	nop
	ret
	.endm

	.macro simple name:req, insn:vararg
	snippet \name
	site \name
	\insn
	next \name
	.endm

#include "legacy_body.h"

	/* To the task of SELECTOR_TASK and back; its first instruction is `task_entry`. */
	snippet task_switch
	site task_switch
	lcall	$SELECTOR_TASK, $0
	next task_switch

	snippet step_task_switch
	step_on
	site step_task_switch
	lcall	$SELECTOR_TASK, $0
	nop
	after step_task_switch
	step_off
	ret

	/* At CPL 3, alignment checked, on a stack that is not aligned: an access that is not, either. For TASK_GATE_USER. */
	snippet endless_ac
	movl	%cr0, %eax
	orl	$0x40000, %eax
	movl	%eax, %cr0
	movw	$SELECTOR_USER_DATA, %ax
	movw	%ax, %ds
	pushl	$SELECTOR_USER_DATA
	pushl	$(LOW_DATA_END - 3)
	pushl	$0x40002                        /* AC */
	pushl	$SELECTOR_USER32
	pushl	$endless_ac_user
	iretl
endless_ac_user:
	site endless_ac
	movl	LOW_DATA + 1, %eax
	next endless_ac
