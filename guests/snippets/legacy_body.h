/*
 * Snippets for 16- and 32-bit code, included once for each width: address edi, value esi, edx; result in eax. Debug
 * registers take their value from esi.
 *
 * The including file defines the macros snippet, site, next for its width and MEM, memory at edi in its own form.
 */
#ifdef __ASSEMBLER__
	snippet store_mov_1
	movl	%esi, %eax
	site store_mov_1
	movb	%al, MEM
	next store_mov_1

	simple store_mov_2, movw %si, MEM
	simple store_mov_4, movl %esi, MEM
	simple load_mov_1, movzbl MEM, %eax
	simple load_mov_2, movzwl MEM, %eax
	simple load_mov_4, movl MEM, %eax
	simple store_xchg_4, xchgl %esi, MEM
	simple add_memory, addl $1, MEM

	snippet store_stosb
	movl	%esi, %eax
	site store_stosb
	stosb
	next store_stosb

	snippet rep_stosb                       /* edx bytes */
	movl	%edx, %ecx
	movl	%esi, %eax
	site rep_stosb
	rep stosb
	next rep_stosb

	/* An exit before the access. */
	snippet cpuid_store_4
	movl	%edx, %ebp
	xorl	%eax, %eax
	xorl	%ecx, %ecx
	cpuid
	site cpuid_store_4
	movl	%esi, MEM
	next cpuid_store_4

	snippet out_store_4
	movb	$0x55, %al
	outb	%al, $0x80
	site out_store_4
	movl	%esi, MEM
	next out_store_4

	/* Armed in this mode, by edx in DR7, without and with an exit before the access. */
	snippet arm_store_4
	movl	%edx, %dr7
	site arm_store_4
	movl	%esi, MEM
	next arm_store_4

	snippet arm_out_store_4
	movl	%edx, %dr7
	movb	$0x55, %al
	outb	%al, $0x80
	site arm_out_store_4
	movl	%esi, MEM
	next arm_out_store_4

	snippet arm_cpuid_store_4
	movl	%edx, %dr7
	xorl	%eax, %eax
	xorl	%ecx, %ecx
	cpuid
	site arm_cpuid_store_4
	movl	%esi, MEM
	next arm_cpuid_store_4

	simple nop, nop

	snippet cpuid
	xorl	%eax, %eax
	xorl	%ecx, %ecx
	site cpuid
	cpuid
	next cpuid

	snippet out_80
	movb	$0x55, %al
	site out_80
	outb	%al, $0x80
	next out_80

	simple int3, int3
	simple icebp, .byte 0xf1
	simple int1, .byte 0xcd, 0x01
	simple int_n_3, .byte 0xcd, 0x03        /* INT n with n = 3, which is not INT3 */
	simple ud2, ud2

	simple write_dr0, movl %esi, %dr0
	simple write_dr1, movl %esi, %dr1
	simple write_dr2, movl %esi, %dr2
	simple write_dr3, movl %esi, %dr3
	simple write_dr4, .byte 0x0f, 0x23, 0xe6
	simple write_dr5, .byte 0x0f, 0x23, 0xee
	simple write_dr6, movl %esi, %dr6
	simple write_dr7, movl %esi, %dr7
	simple read_dr0, movl %dr0, %eax
	simple read_dr1, movl %dr1, %eax
	simple read_dr2, movl %dr2, %eax
	simple read_dr3, movl %dr3, %eax
	simple read_dr4, .byte 0x0f, 0x21, 0xe0
	simple read_dr5, .byte 0x0f, 0x21, 0xe8
	simple read_dr6, movl %dr6, %eax
	simple read_dr7, movl %dr7, %eax

	/* Memory at edi holds a stack selector: in real and virtual-8086 mode 0. */
	snippet mov_ss_nop
	movw	MEM, %ss
	site mov_ss_nop
	nop
	next mov_ss_nop

	snippet mov_ss_int3
	movw	MEM, %ss
	site mov_ss_int3
	int3
	next mov_ss_int3

	snippet pop_ss                          /* `site` is the instruction that its shadow is made for */
	movl	%esp, %ebx
	movl	%edi, %esp
	popl	%ss
	site pop_ss
	movl	%ebx, %esp
	next pop_ss

	.macro step_on
	pushfl
	orl	$0x100, (%esp)
	popfl
	.endm

	.macro step_off
	pushfl
	andl	$~0x100, (%esp)
	popfl
	.endm

	.macro stepped name:req, insn:req
	site step_\name
	\insn
	nop
	after step_\name
	step_off
	ret
	.endm

	snippet step_nops
	step_on
	stepped nops, "nop ; nop ; nop"

	snippet step_out
	movb	$0x55, %al
	step_on
	stepped out, "outb %al, $0x80"

	snippet step_cpuid
	xorl	%eax, %eax
	xorl	%ecx, %ecx
	step_on
	stepped cpuid, cpuid

	snippet step_store
	step_on
	stepped store, STORE

	/* Spins until the host wrote edx to the mailbox, then loads through one segment. */
	.macro waiting name:req, insn:vararg
	snippet \name
1:	cmpl	%edx, %ss:MAILBOX
	jne	1b
	site \name
	\insn
	next \name
	.endm

	waiting wait_then_load_ds, movl MEM, %eax
	waiting wait_then_load_es, movl %es:MEM, %eax
	waiting wait_then_load_ss, movl %ss:MEM, %eax
	waiting wait_then_load_cs, movl %cs:MEM, %eax
#endif
