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
#define FBT_VALUES	12
#define FBT_STEPS	3

/* What a record has beside the probe itself: argument n of the entry is bit n. */
#define FBT_WANT_RESULT	(1u << 5)	/* rax, at returns */
#define FBT_WANT_FRAMES	(1u << 6)
#define FBT_WANT_DR7	(1u << 7)
#define FBT_WANT_EACH	(1u << 8)	/* a record for each time, no `repeats` */
#define FBT_WANT_ALL	0x1ffu

/* Where probes of the function can be: offsets. Entry -1: no `push %rbp`, and then no probes at all. */
struct fbt_sites {
	int32_t entry;
	uint32_t returns;
	uint32_t offset[FBT_RETURNS];
};

/*
 * Memory that a record of the entry probe has a copy of, as an expression over one argument: each step adds its offset
 * to what it has and reads there, a quadword but for the last step.
 */
struct fbt_value {
	uint8_t argument;		/* 0-4 */
	uint8_t steps;			/* 1-FBT_STEPS */
	uint8_t bytes;			/* 1, 2, 4, 8: of the last step */
	uint8_t unused;
	int32_t offset[FBT_STEPS];
};

struct fbt_wanted {
	uint32_t mask;			/* FBT_WANT_* */
	uint32_t count;
	struct fbt_value values[FBT_VALUES];
};

/*
 * As it goes over the control channel. Records are in the order in which the probes fired, on all processors. `repeats`
 * stands for so many more records that go on as this one and the one before it by turns, but for the time stamps.
 */
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
	uint64_t values[FBT_VALUES];
	uint32_t faults;		/* mask of values whose address is no memory */
	uint32_t repeats;
};

struct fbt_counts {
	uint64_t entries;
	uint64_t returns;
	uint64_t dropped;		/* records that found the ring full */
};

struct trapframe;

void	 fbt_sites(uint64_t start, uint32_t size, struct fbt_sites *sites);
/* EBUSY: the id is in use. ENOENT: no probe there. ENOSPC: too many. */
int	 fbt_enable(uint32_t id, uint64_t start, uint32_t size, uint32_t what, const struct fbt_wanted *wanted,
	    uint32_t *patched);
int	 fbt_disable(uint32_t id, struct fbt_counts *counts);
int	 fbt_counts(uint32_t id, struct fbt_counts *counts);
size_t	 fbt_read(struct fbt_record *records, size_t count);
bool	 fbt_active(void);

/* kern/insn.c: bytes of the instruction, 0 for one that is not known. */
int	 insn_length(const uint8_t *code);

#endif
