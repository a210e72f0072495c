/*
 * Starts the second processor with INIT and a start-up IPI, and prints what both do. The second one reports the page it
 * was started at and its DR0, DR6 and DR7, and then takes a fixed IPI. 32-bit protected mode, flat, no paging.
 */
	.set	COM1, 0x3f8
	.set	APIC, 0xfee00000
	.set	AP_PAGE, 0x8000
	.set	IDT, 0x5000
	.set	AP_STATE, 0x6000	/* CS, DR0, DR6, DR7, APIC ID, interrupts taken; then "started" */

	.section .reset, "ax"
	.code16
	.byte	0xe9
	.word	0x10000 - 0xfff3
	.org	16

	.text
	.code16
start16:
	cli
	lgdtl	%cs:(gdtr - start16)
	mov	$0x11, %eax
	mov	%eax, %cr0
	ljmpl	$0x08, $start32

	.code32
start32:
	mov	$0x10, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$0x7000, %esp
	mov	$ap_start, %esi
	mov	$AP_PAGE, %edi
	mov	$(ap_end - ap_start), %ecx
	rep movsb
	mov	$0x40, %ebx
	mov	$ipi_handler, %ecx
	mov	%ecx, %eax
	mov	%ax, IDT(, %ebx, 8)
	movw	$0x08, IDT + 2(, %ebx, 8)
	movw	$0x8e00, IDT + 4(, %ebx, 8)
	shr	$16, %ecx
	mov	%cx, IDT + 6(, %ebx, 8)

	/* To APIC ID 1: INIT, then start at AP_PAGE. */
	mov	$(APIC + 0x310), %ebx
	mov	$0x01000000, %eax
	mov	%eax, (%ebx)
	mov	$(APIC + 0x300), %ebx
	mov	$0x00004500, %eax
	mov	%eax, (%ebx)
	mov	$(0x00004600 | AP_PAGE >> 12), %eax
	mov	%eax, (%ebx)
1:	pause
	cmpl	$1, AP_STATE + 24
	jne	1b
	/* A fixed interrupt for the one that waits in HLT. */
	mov	$0x00004040, %eax
	mov	%eax, (%ebx)
1:	pause
	cmpl	$1, AP_STATE + 20
	jne	1b
	mov	$AP_STATE, %esi
	mov	$24, %ecx
	mov	$COM1, %edx

1:	lodsb
	out	%al, %dx
	loop	1b
	mov	$8, %al
	out	%al, $0xf4
1:	hlt
	jmp	1b

ipi_handler:
	incl	AP_STATE + 20
	push	%eax
	push	%ebx
	mov	$(APIC + 0xb0), %ebx
	xor	%eax, %eax
	mov	%eax, (%ebx)
	pop	%ebx
	pop	%eax
	iret

	/* Copied to AP_PAGE; CS is what the start-up IPI made it. */
	.code16
ap_start:
	cli
	xor	%ax, %ax
	mov	%ax, %ds
	xor	%eax, %eax
	mov	%cs, %ax
	mov	%eax, AP_STATE
	mov	%dr0, %eax
	mov	%eax, AP_STATE + 4
	mov	%dr6, %eax
	mov	%eax, AP_STATE + 8
	mov	%dr7, %eax
	mov	%eax, AP_STATE + 12
	lgdtl	%cs:(ap_gdtr - ap_start)
	mov	$0x11, %eax
	mov	%eax, %cr0
	ljmpl	$0x08, $ap_32
	.align	4
ap_gdtr:
	.word	23
	.long	gdt
ap_end:

	.code32
ap_32:
	mov	$0x10, %eax
	mov	%eax, %ds
	mov	%eax, %ss
	mov	$0x6f00, %esp
	lidt	idtr
	mov	$(APIC + 0x20), %ebx
	mov	(%ebx), %eax
	mov	%eax, AP_STATE + 16
	mov	$(APIC + 0xf0), %ebx
	mov	$0x1ff, %eax
	mov	%eax, (%ebx)
	movl	$1, AP_STATE + 24
	sti
1:	hlt
	jmp	1b

	.align	8
gdt:
	.quad	0
	.quad	0x00cf9b000000ffff
	.quad	0x00cf93000000ffff
gdtr:
	.word	23
	.long	gdt
idtr:
	.word	0x41 * 8 - 1
	.long	IDT
