/*
 * From the reset vector to 64-bit code in RAM.
 *
 * The debug registers are read before anything else happens: the reset state of a vCPU can be seen only once.
 * Nothing here stores to ROM; descriptors in ROM have their accessed bits set, since the processor would
 * otherwise try to (bhyve ends a guest that does).
 */
#include "layout.h"

#define CR0_PE      0x00000001
#define CR0_MP      0x00000002
#define CR0_EM      0x00000004
#define CR0_NW      0x20000000
#define CR0_CD      0x40000000
#define CR0_PG      0x80000000
#define CR4_PAE     0x00000020
#define CR4_OSFXSR  0x00000200
#define MSR_EFER    0xC0000080
#define EFER_SCE    0x00000001
#define EFER_LME    0x00000100

	.section .rom, "ax"
	.globl rom_start
rom_start:
	.code16
start16:
	movl	%edx, RESET_STATE + 56          /* processor signature; before edx is used */
	mov	%dr0, %eax
	movl	%eax, RESET_STATE + 0
	mov	%dr1, %eax
	movl	%eax, RESET_STATE + 8
	mov	%dr2, %eax
	movl	%eax, RESET_STATE + 16
	mov	%dr3, %eax
	movl	%eax, RESET_STATE + 24
	mov	%dr6, %eax
	movl	%eax, RESET_STATE + 32
	mov	%dr7, %eax
	movl	%eax, RESET_STATE + 40
	mov	%cr4, %eax
	movl	%eax, RESET_STATE + 48
	mov	$0x10, %al                      /* port 0x80: the same mark a firmware would post; ignored by bhyve */
	lgdtl	%cs:(rom_gdtr - rom_start + (ROM_TEXT - ROM_BASE))
	movl	%cr0, %eax
	orl	$(CR0_PE | CR0_MP), %eax
	andl	$~(CR0_EM | CR0_NW | CR0_CD), %eax
	movl	%eax, %cr0
	ljmpl	$SELECTOR_CODE32, $start32

	.code32
start32:
	movw	$SELECTOR_DATA, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	%ax, %fs
	movw	%ax, %gs
	movl	$LOW_STACK, %esp
	cld
	/* Code and data of the runtime to RAM; what the image does not hold starts as zero. */
	movl	$ram_image_load, %esi
	movl	$RAM_IMAGE, %edi
	movl	$ram_image_words, %ecx
	rep movsl
	movl	$bss_start, %edi
	movl	$bss_words, %ecx
	xorl	%eax, %eax
	rep stosl
	movl	$low_code_load, %esi
	movl	$LOW_CODE, %edi
	movl	$low_code_words, %ecx
	rep movsl
	/* Identity map of 4 GiB with 2 MiB pages, user-accessible: CPL 3 code runs in the same pages. */
	movl	$PAGE_TABLES, %edi
	movl	$(6 * 4096 / 4), %ecx
	xorl	%eax, %eax
	rep stosl
	movl	$(PAGE_TABLES + 0x1000 + 7), PAGE_TABLES
	movl	$PAGE_TABLES + 0x1000, %edi
	movl	$(PAGE_TABLES + 0x2000 + 7), %eax
	movl	$4, %ecx
1:	movl	%eax, (%edi)
	addl	$8, %edi
	addl	$0x1000, %eax
	loop	1b
	movl	$PAGE_TABLES + 0x2000, %edi
	movl	$0x87, %eax                     /* present, writable, user, 2 MiB */
	movl	$2048, %ecx
2:	movl	%eax, (%edi)
	addl	$8, %edi
	addl	$0x200000, %eax
	loop	2b
	call	enter_long
	.code64
	movq	$(STACKS + STACK_SIZE), %rsp
	movq	$main, %rax
	call	*%rax
3:	hlt
	jmp	3b

	.code32
	/* Paging and long mode on; returns to 64-bit code behind the call. Started processors come here too. */
	.globl enter_long
enter_long:
	movl	$PAGE_TABLES, %eax
	movl	%eax, %cr3
	movl	%cr4, %eax
	orl	$(CR4_PAE | CR4_OSFXSR), %eax
	movl	%eax, %cr4
	movl	$MSR_EFER, %ecx
	rdmsr
	orl	$(EFER_LME | EFER_SCE), %eax
	wrmsr
	movl	%cr0, %eax
	orl	$CR0_PG, %eax
	movl	%eax, %cr0
	popl	%eax
	pushl	$SELECTOR_CODE64
	pushl	%eax
	lret

	.align 8
rom_gdt:
	.quad	0
	.quad	0x00CF9B000000FFFF              /* 0x08 32-bit code, accessed */
	.quad	0x00CF93000000FFFF              /* 0x10 data, accessed */
	.quad	0x00AF9B000000FFFF              /* 0x18 64-bit code, accessed */
rom_gdtr:
	.word	. - rom_gdt - 1
	.long	rom_gdt

	.section .reset, "ax"
	.code16
	.globl reset
reset:
	/* jmp start16, the first byte of the runtime; the 16-bit offset wraps, which the linker would refuse. */
	.byte	0xE9
	.word	(ROM_TEXT - ROM_BASE - 0xFFF3) & 0xFFFF
	.fill	16 - (. - reset), 1, 0xF4
