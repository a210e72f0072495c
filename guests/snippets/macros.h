/*
 * How a snippet is written: `snippet`, instructions that prepare, `site`, the instruction under test, `next`.
 *
 * Arguments in rdi, rsi, rdx; result in rax; every register but rsp may be used. A fault at `site` resumes at `next`.
 */
#ifdef __ASSEMBLER__

	.macro snippet name
	.align 16
	.globl snippet_\name
snippet_\name:
	.endm

	.macro site name
	.globl snippet_\name\()_site
snippet_\name\()_site:
	.endm

	/* `next` is a NOP of its own, so that a trap there is told from one in the caller. */
	.macro behind name
	.globl snippet_\name\()_next
snippet_\name\()_next:
	nop
	.endm

	.macro next name
	behind \name
	ret
	.endm

	.macro simple name:req, insn:vararg
	snippet \name
	site \name
	\insn
	next \name
	.endm

	.macro step_on
	pushfq
	orq	$0x100, (%rsp)
	popfq
	.endm

	.macro step_off
	pushfq
	andq	$~0x100, (%rsp)
	popfq
	.endm
#endif
