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
/* kern/trap.c: the end, with all registers; and the end without a word. */
void	panic_frame(const struct trapframe *frame) __attribute__((noreturn));
void	reset_machine(void) __attribute__((noreturn));
/* kern/witness.c: a #DB of the host, with the DR6 it left. */
void	witness_debug_trap(uint64_t dr6, struct trapframe *frame);

#endif
