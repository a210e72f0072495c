/* Firmware of the emulated host: from the reset vector to the kernel at 2 MiB, in 64-bit mode. Stores nothing to ROM. */
#define PAGE_TABLES	0x1000
#define KERNEL		0x200000
#define ROM_OFFSET	0xf000		/* of this code in the segment at 0xffff0000 */

	.section .rom, "ax"
rom_start:
	.code16
	lgdtl	%cs:(gdtr - rom_start + ROM_OFFSET)
	movl	%cr0, %eax
	orl	$1, %eax
	andl	$0x9fffffff, %eax		/* caches on, as a firmware leaves them */
	movl	%eax, %cr0
	ljmpl	$0x08, $1f
	.code32
1:	movw	$0x10, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	cld
	movl	$PAGE_TABLES, %edi
	movl	$(6 * 1024), %ecx
	xorl	%eax, %eax
	rep stosl
	movl	$(PAGE_TABLES + 0x1003), PAGE_TABLES
	movl	$(PAGE_TABLES + 0x1000), %edi
	movl	$(PAGE_TABLES + 0x2003), %eax
	movl	$4, %ecx
2:	movl	%eax, (%edi)
	addl	$8, %edi
	addl	$0x1000, %eax
	loop	2b
	movl	$(PAGE_TABLES + 0x2000), %edi
	movl	$0x83, %eax
	movl	$2048, %ecx
3:	movl	%eax, (%edi)
	addl	$8, %edi
	addl	$0x200000, %eax
	loop	3b
	movl	$PAGE_TABLES, %eax
	movl	%eax, %cr3
	movl	%cr4, %eax
	orl	$0x620, %eax			/* PAE, OSFXSR, OSXMMEXCPT */
	movl	%eax, %cr4
	movl	$0xc0000080, %ecx
	rdmsr
	orl	$0x100, %eax
	wrmsr
	movl	%cr0, %eax
	andl	$~0x4, %eax			/* no emulation of the FPU */
	orl	$0x80000022, %eax		/* paging, MP, NE */
	movl	%eax, %cr0
	ljmpl	$0x18, $4f
	.code64
4:	movq	$KERNEL, %rax
	jmp	*%rax

	.align 8
gdt:	.quad	0
	.quad	0x00cf9b000000ffff
	.quad	0x00cf93000000ffff
	.quad	0x00af9b000000ffff
gdtr:	.word	. - gdt - 1
	.long	gdt

	.section .reset, "ax"
	.code16
	.globl	rom_reset
rom_reset:
	.byte	0xe9				/* jmp rom_start; the offset wraps */
	.word	(ROM_OFFSET - 0xfff3) & 0xffff
	.fill	16 - (. - rom_reset), 1, 0xf4
