/* What the interrupt entry leaves on the stack. */
#ifndef TRAP_H
#define TRAP_H

#include <stdbool.h>
#include <stdint.h>

struct trapframe {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

/* kern/fbt.c: true = the breakpoint was a probe. */
bool	fbt_trap(struct trapframe *frame);

#endif
