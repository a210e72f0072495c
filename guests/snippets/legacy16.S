/* Snippets of 16-bit code. */
#include "layout.h"

#define MEM (%di)
#define STORE "movl %esi, (%di)"

	.section .low, "ax"
	.code16
	.macro snippet name
	.align 16
	.globl s16_\name
s16_\name:
	.endm

	.macro site name
	.globl s16_\name\()_site
s16_\name\()_site:
	.endm

	.macro after name
	.globl s16_\name\()_next
s16_\name\()_next:
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
