/*
 * A ROM that does one thing for each byte it reads from COM1, and reports its whole state as 32-bit words when asked:
 * what a test of one kernel part needs, without the runtime that the conformance cases use. 32-bit protected mode, flat,
 * no paging. FS stays flat when a test moves the base of another segment.
 */
	.set	COM1, 0x3f8
	.set	IDT, 0x5000
	.set	WATCHED, 0x6000		/* the variable under a watchpoint */
	.set	IRQS, 0x6010
	.set	DEBUGS, 0x6014
	.set	SEEN_DR6, 0x6018	/* by the last #DB */
	.set	TSC, 0x6020
	.set	MARK, 0x9000		/* words that tell which base a segment has */
	.set	APIC, 0xfee00000

	.section .reset, "ax"
	.code16
	.byte	0xe9			/* jmp to offset 0 of the segment: the assembler would not wrap around */
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
	mov	$0x18, %eax
	mov	%eax, %fs
	mov	$0x7000, %esp
	movl	$0x90009000, MARK
	movl	$0xa000a000, MARK + 0x1000
	mov	$1, %ebx
	mov	$debug_handler, %ecx
	call	set_gate
	mov	$0x40, %ebx
	mov	$irq_handler, %ecx
	call	set_gate
	lidt	idtr

next:
	mov	$COM1 + 5, %edx
	in	%dx, %al
	test	$1, %al
	jz	next
	mov	$COM1, %edx
	in	%dx, %al
	cmp	$'r', %al
	je	report
	cmp	$'a', %al
	je	arm
	cmp	$'m', %al
	je	change
	cmp	$'w', %al
	je	write
	cmp	$'x', %al
	je	exits
	cmp	$'t', %al
	je	task_priority
	cmp	$'T', %al
	je	set_tsc
	cmp	$'e', %al
	je	set_efer
	cmp	$'i', %al
	je	interrupt
	jmp	next

arm:
	mov	$WATCHED, %eax
	mov	%eax, %dr0
	mov	$0x1111, %eax
	mov	%eax, %dr1
	mov	$0x2222, %eax
	mov	%eax, %dr2
	mov	$0x3333, %eax
	mov	%eax, %dr3
	mov	$0xffff0ff0, %eax
	mov	%eax, %dr6
	mov	$0x000d0401, %eax	/* DR0: writes of 4 bytes */
	mov	%eax, %dr7
	jmp	next

change:
	mov	$0x2bad, %eax
	mov	%eax, %dr2
	mov	$0x000d0403, %eax
	mov	%eax, %dr7
	jmp	next

write:
	incl	%fs:WATCHED
	jmp	next

exits:
	mov	$100, %esi
1:	xor	%eax, %eax
	cpuid
	dec	%esi
	jnz	1b
	jmp	next

task_priority:
	mov	$APIC + 0x80, %ebx
	mov	$0x50, %eax
	mov	%eax, (%ebx)
	jmp	next

set_tsc:
	mov	$0x10, %ecx
	xor	%eax, %eax
	xor	%edx, %edx
	wrmsr
	rdtsc
	mov	%eax, %fs:TSC
	mov	%edx, %fs:TSC + 4
	jmp	next

set_efer:
	mov	$0xc0000080, %ecx
	rdmsr
	xor	$1, %eax
	wrmsr
	jmp	next

	/* The timer fires while interrupts are off; it must arrive in the exit-free stretch behind STI. */
interrupt:
	mov	$APIC + 0xf0, %ebx
	mov	$0x1ff, %eax
	mov	%eax, (%ebx)
	mov	$APIC + 0x3e0, %ebx
	mov	$0xb, %eax
	mov	%eax, (%ebx)
	mov	$APIC + 0x320, %ebx
	mov	$0x40, %eax
	mov	%eax, (%ebx)
	mov	$APIC + 0x380, %ebx
	mov	$100, %eax
	mov	%eax, (%ebx)
	mov	$2000000, %ecx
1:	cmpl	$0, %fs:IRQS
	loopz	1b
	sti
	nop
	nop
	nop
	cli
	jmp	next

report:
	mov	$0x54524f52, %eax	/* "RORT" */
	call	put
	mov	%dr0, %eax
	call	put
	mov	%dr1, %eax
	call	put
	mov	%dr2, %eax
	call	put
	mov	%dr3, %eax
	call	put
	mov	%dr6, %eax
	call	put
	mov	%dr7, %eax
	call	put
	mov	%cr0, %eax
	call	put
	mov	%cr2, %eax
	call	put
	mov	%cr3, %eax
	call	put
	mov	%cr4, %eax
	call	put
	mov	$0xc0000080, %ecx
	rdmsr
	call	put
	sub	$8, %esp
	sgdt	(%esp)
	mov	2(%esp), %eax
	call	put
	movzwl	(%esp), %eax
	call	put
	sidt	(%esp)
	mov	2(%esp), %eax
	call	put
	movzwl	(%esp), %eax
	call	put
	add	$8, %esp
	mov	%cs, %eax
	call	put
	mov	%ds, %eax
	call	put
	mov	%es, %eax
	call	put
	mov	%ss, %eax
	call	put
	mov	%ds:MARK, %eax
	call	put
	mov	%es:MARK, %eax
	call	put
	.byte	0xf0, 0x0f, 0x20, 0xc0	/* lock mov %cr0, %eax: CR8 outside 64-bit mode */
	call	put
	mov	%fs:IRQS, %eax
	call	put
	mov	%fs:DEBUGS, %eax
	call	put
	mov	%fs:SEEN_DR6, %eax
	call	put
	mov	%fs:TSC, %eax
	call	put
	mov	%fs:TSC + 4, %eax
	call	put
	jmp	next

put:
	mov	$COM1, %edx
	mov	$4, %ecx
1:	out	%al, %dx
	ror	$8, %eax
	dec	%ecx
	jnz	1b
	ret

set_gate:
	mov	%ecx, %eax
	and	$0xffff, %eax
	or	$0x00080000, %eax
	mov	%eax, IDT(,%ebx,8)
	mov	%ecx, %eax
	and	$0xffff0000, %eax
	or	$0x8e00, %eax
	mov	%eax, IDT + 4(,%ebx,8)
	ret

debug_handler:
	push	%eax
	incl	%fs:DEBUGS
	mov	%dr6, %eax
	mov	%eax, %fs:SEEN_DR6
	pop	%eax
	iret

irq_handler:
	push	%eax
	push	%ebx
	incl	%fs:IRQS
	mov	$APIC + 0xb0, %ebx
	xor	%eax, %eax
	mov	%eax, (%ebx)
	pop	%ebx
	pop	%eax
	iret

	.balign	8
gdt:
	.quad	0
	.quad	0x00cf9b000000ffff
	.quad	0x00cf93000000ffff
	.quad	0x00cf93000000ffff
gdtr:
	.word	. - gdt - 1
	.long	gdt
idtr:
	.word	0x41 * 8 - 1
	.long	IDT
