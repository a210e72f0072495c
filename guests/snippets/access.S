/* Accesses to memory at rdi, and to ports. */
#include "layout.h"
#include "macros.h"

	.text
	simple store_mov_1, movb %sil, (%rdi)
	simple store_mov_2, movw %si, (%rdi)
	simple store_mov_4, movl %esi, (%rdi)
	simple store_mov_8, movq %rsi, (%rdi)

	snippet store_mov_16
	movq	%rsi, %xmm0
	punpcklqdq %xmm0, %xmm0
	site store_mov_16
	movups	%xmm0, (%rdi)
	next store_mov_16

	/* XCR0 with x87, SSE and AVX state; a processor without them meets #GP or #UD before `site`. */
	.macro avx_on
	movq	%cr4, %rax
	orq	$0x40000, %rax
	movq	%rax, %cr4
	movq	%rdx, %r8
	xorl	%ecx, %ecx
	xgetbv
	orl	$7, %eax
	xsetbv
	movq	%r8, %rdx
	.endm

	snippet store_mov_32
	avx_on
	vpxor	%ymm0, %ymm0, %ymm0
	site store_mov_32
	vmovups	%ymm0, (%rdi)
	next store_mov_32

	/* Eight lanes of four bytes; bit 0 of rdx is the lane at rdi. */
	snippet store_masked_32
	avx_on
	subq	$32, %rsp
	xorl	%ecx, %ecx
1:	xorl	%eax, %eax
	btl	%ecx, %edx
	sbbl	%eax, %eax
	movl	%eax, (%rsp,%rcx,4)
	incl	%ecx
	cmpl	$8, %ecx
	jne	1b
	vmovups	(%rsp), %ymm1
	addq	$32, %rsp
	vpxor	%ymm0, %ymm0, %ymm0
	site store_masked_32
	vmaskmovps %ymm0, %ymm1, (%rdi)
	next store_masked_32

	simple load_mov_1, movzbl (%rdi), %eax
	simple load_mov_2, movzwl (%rdi), %eax
	simple load_mov_4, movl (%rdi), %eax
	simple load_mov_8, movq (%rdi), %rax
	simple load_mov_16, movups (%rdi), %xmm0

	snippet load_mov_32
	avx_on
	site load_mov_32
	vmovups	(%rdi), %ymm0
	next load_mov_32

	simple store_xchg_8, xchgq %rsi, (%rdi)
	simple store_lock_add_8, lock addq %rsi, (%rdi)

	snippet store_cmpxchg_8                 /* compares with rdx, stores rsi when equal */
	movq	%rdx, %rax
	site store_cmpxchg_8
	lock cmpxchgq %rsi, (%rdi)
	next store_cmpxchg_8

	snippet store_cmpxchg_16                /* compares with rdx twice, stores rsi twice when equal */
	movq	%rdx, %rax
	movq	%rsi, %rbx
	movq	%rsi, %rcx
	site store_cmpxchg_16
	lock cmpxchg16b (%rdi)
	next store_cmpxchg_16

	/* --- implicit accesses: the stack is where rdi says, with room for the handler's frames below --------- */

	.macro on_stack name:req, offset:req, insn:vararg
	snippet \name
	movq	%rsp, %rbx
	leaq	\offset(%rdi), %rsp
	site \name
	\insn
	behind \name
	movq	%rbx, %rsp
	ret
	.endm

	on_stack store_push_8, 8, pushq %rsi
	on_stack load_pop_8, 0, popq %rax
	on_stack store_pushf_8, 8, pushfq
	on_stack store_enter_8, 8, enter $0, $0

	snippet store_call_8
	movq	%rsp, %rbx
	leaq	8(%rdi), %rsp
	site store_call_8
	call	1f
	nop
	.globl snippet_store_call_8_next        /* the trap comes at the target of the call */
snippet_store_call_8_next:
1:	nop
	movq	%rbx, %rsp
	ret

	snippet load_ret_8                      /* puts its return address at rdi itself */
	movq	%rsp, %rbx
	leaq	1f(%rip), %rax
	movq	%rdi, %rsp
	movq	%rax, (%rsp)
	site load_ret_8
	ret
	nop
	.globl snippet_load_ret_8_next
snippet_load_ret_8_next:
1:	nop
	movq	%rbx, %rsp
	ret

	/* An interrupt's frame: SS is stored at rdi (which ends in 8). The trap comes at the handler. */
	snippet store_int_frame_8
	movq	%rsp, %rbx
	leaq	8(%rdi), %rsp
	site store_int_frame_8
	int	$0x81
	behind store_int_frame_8
	movq	%rbx, %rsp
	ret

	simple store_fxsave, fxsave (%rdi)

	snippet store_xsave                     /* x87 state only */
	movq	%cr4, %rax
	orq	$0x40000, %rax
	movq	%rax, %cr4
	movl	$1, %eax
	xorl	%edx, %edx
	site store_xsave
	xsave	(%rdi)
	next store_xsave

	/* At CPL 3 with CR0.AM set and rdi unaligned: #AC. */
	snippet store_checked_8
	pushfq
	orq	$0x40000, (%rsp)
	popfq
	site store_checked_8
	movq	%rsi, (%rdi)
	behind store_checked_8
	pushfq
	andq	$~0x40000, (%rsp)
	popfq
	ret

	/* The forms that every bhyve can emulate. */
	snippet mmio_store_4
	movq	%rdi, %rbx
	movl	%esi, %eax
	site mmio_store_4
	movl	%eax, (%rbx)
	next mmio_store_4

	snippet mmio_load_4
	movq	%rdi, %rbx
	site mmio_load_4
	movl	(%rbx), %eax
	next mmio_load_4

	/* --- string instructions: rdx iterations, source rsi, destination rdi, value rsi ----------------------- */

	.macro string name:req, direction:req, insn:vararg
	snippet \name
	movq	%rdx, %rcx
	movq	%rsi, %rax
	\direction
	site \name
	\insn
	behind \name
	cld
	movq	%rcx, %rax
	ret
	.endm

	string store_stosb, cld, stosb
	string store_stosq, cld, stosq
	string copy_movsb, cld, movsb
	string copy_movsq, cld, movsq
	string load_lodsb, cld, lodsb
	string load_scasb, cld, scasb
	string rep_stosb, cld, rep stosb
	string rep_stosq, cld, rep stosq
	string rep_movsb, cld, rep movsb
	string rep_movsq, cld, rep movsq
	string rep_stosb_back, std, rep stosb
	string rep_movsb_back, std, rep movsb

	/* --- ports: rdi is the port, rsi the value or the memory ----------------------------------------------- */

	.macro port name:req, insn:vararg
	snippet \name
	movq	%rdx, %rcx
	movl	%edi, %edx
	movl	%esi, %eax
	movq	%rsi, %rdi
	site \name
	\insn
	next \name
	.endm

	port out_dx_1, outb %al, %dx
	port out_dx_2, outw %ax, %dx
	port out_dx_4, outl %eax, %dx
	port in_dx_1, inb %dx, %al
	port in_dx_2, inw %dx, %ax
	port in_dx_4, inl %dx, %eax
	port rep_outsb, rep outsb
	port rep_insb, rep insb
