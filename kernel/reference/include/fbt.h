/*
 * Function boundary tracing as FreeBSD's fbt provider does it on amd64: the first `push %rbp` of a function and each
 * `ret` are replaced by int3, and the #BP handler records what it finds through per-CPU data. Functions are named by
 * address and size: the symbols are the host's business.
 */
#ifndef FBT_H
#define FBT_H

#include "kern.h"

#define FBT_ENTRY	1
#define FBT_RETURN	2
#define FBT_RETURNS	32		/* of one function */
#define FBT_PROBES	16
#define FBT_FRAMES	6

/* Where probes of the function can be: offsets. Entry -1: no `push %rbp`, and then no probes at all. */
struct fbt_sites {
	int32_t entry;
	uint32_t returns;
	uint32_t offset[FBT_RETURNS];
};

/* As it goes over the control channel. */
struct fbt_record {
	uint32_t id;
	uint32_t what;			/* FBT_ENTRY or FBT_RETURN */
	uint32_t cpu;
	uint32_t offset;		/* of the probe in its function */
	uint64_t thread;		/* address of the thread: its identity */
	uint64_t tsc;
	uint64_t args[5];		/* rdi, rsi, rdx, rcx, r8; at a return args[0] is rax */
	uint64_t dr7;			/* of the processor at that moment */
	uint64_t frames[FBT_FRAMES];	/* return addresses, innermost first, 0 = end */
	char	 name[24];		/* of the thread */
};

struct fbt_counts {
	uint64_t entries;
	uint64_t returns;
	uint64_t dropped;		/* records that found the ring full */
};

struct trapframe;

void	 fbt_sites(uint64_t start, uint32_t size, struct fbt_sites *sites);
/* EBUSY: the id is in use. ENOENT: no probe there. ENOSPC: too many. */
int	 fbt_enable(uint32_t id, uint64_t start, uint32_t size, uint32_t what, uint32_t *patched);
int	 fbt_disable(uint32_t id, struct fbt_counts *counts);
int	 fbt_counts(uint32_t id, struct fbt_counts *counts);
size_t	 fbt_read(struct fbt_record *records, size_t count);
bool	 fbt_active(void);

/* kern/insn.c: bytes of the instruction, 0 for one that is not known. */
int	 insn_length(const uint8_t *code);

#endif
