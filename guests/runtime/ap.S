/*
 * The first instructions of a started processor: in real mode, at the page that the start-up IPI named.
 *
 * As on the boot processor, its debug registers are read before anything touches them.
 */
#include "layout.h"

#define CR0_PE 0x00000001
#define CR0_MP 0x00000002
#define CR0_EM 0x00000004
#define CR0_NW 0x20000000
#define CR0_CD 0x40000000

	.section .low.start, "ax"
	.code16
	.globl ap_start
ap_start:
	xorw	%ax, %ax
	movw	%ax, %ds
	movl	%edx, AP_STATE + 56
	mov	%dr0, %eax
	movl	%eax, AP_STATE + 0
	mov	%dr1, %eax
	movl	%eax, AP_STATE + 8
	mov	%dr2, %eax
	movl	%eax, AP_STATE + 16
	mov	%dr3, %eax
	movl	%eax, AP_STATE + 24
	mov	%dr6, %eax
	movl	%eax, AP_STATE + 32
	mov	%dr7, %eax
	movl	%eax, AP_STATE + 40
	mov	%cr4, %eax
	movl	%eax, AP_STATE + 48
	lgdtl	%cs:(ap_gdtr - ap_start)
	movl	%cr0, %eax
	orl	$(CR0_PE | CR0_MP), %eax
	andl	$~(CR0_EM | CR0_NW | CR0_CD), %eax
	movl	%eax, %cr0
	ljmpl	$SELECTOR_CODE32, $ap_start32

	.align 8
ap_gdtr:
	.word	SELECTOR_TSS64 - 1
	.long	gdt

	.text
	.code32
ap_start32:
	movw	$SELECTOR_DATA, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	%ax, %fs
	movw	%ax, %gs
	movl	$LOW_STACK, %esp
	movl	$enter_long, %eax
	call	*%eax
	.code64
	movl	ap_starting(%rip), %edi
	movl	%edi, %esp
	shlq	$16, %rsp
	addq	$(STACKS + STACK_SIZE), %rsp
	call	ap_main
1:	hlt
	jmp	1b
