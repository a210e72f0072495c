/*
 * Threads. Each has a kernel stack and a pcb; switching follows FreeBSD's cpu_switch() for the debug registers:
 * a thread with PCB_DBREGS has its own, stored from the hardware when it is switched out (DR7 then keeps bits 10-15
 * only) and loaded when it is switched in; other threads neither store nor load anything.
 *
 * A thread leaves its CPU only when it sleeps, yields or ends. thread_ast_pending() says that it should yield.
 */
#ifndef THREAD_H
#define THREAD_H

#include "lock.h"
#include "types.h"

#define PCB_DBREGS	0x02
#define PCB_FULL_IRET	0x01

struct pcb {
	uint64_t pcb_rsp;		/* everything else callee-saved lies on the stack */
	uint32_t pcb_flags;
	uint64_t pcb_dr0;
	uint64_t pcb_dr1;
	uint64_t pcb_dr2;
	uint64_t pcb_dr3;
	uint64_t pcb_dr6;
	uint64_t pcb_dr7;
};

enum thread_state { TDS_RUNQ, TDS_RUNNING, TDS_SLEEPING, TDS_DEAD };

#define THREAD_STACK_PAGES	4
#define THREAD_NAMELEN		32

struct thread {
	struct pcb	 td_pcb;		/* first: kern/switch.S */
	struct thread	*td_next;		/* run queue or list of a sleep channel */
	struct thread	*td_all;
	enum thread_state td_state;
	volatile bool	 td_oncpu;		/* still on a stack of its own */
	int		 td_cpu;		/* the queue it is on, the CPU it runs or last ran on */
	uint32_t	 td_affinity;		/* mask of CPUs it may run on */
	const void	*td_wchan;
	uint64_t	 td_wakeup;		/* TSC at which a timed sleep ends, or 0 */
	volatile bool	 td_interrupt;		/* sleeps end at once */
	uint32_t	 td_tid;
	uint64_t	 td_runtime;		/* TSC ticks on a CPU */
	uint64_t	 td_switched_in;
	uint8_t		*td_stack;
	void		(*td_start)(void *);
	void		*td_arg;
	char		 td_name[THREAD_NAMELEN];
};

#define CPUMASK_ALL	0xffffffffu

/* NULL when there is no memory. The thread starts on the least loaded CPU of `affinity`. */
struct thread	*thread_create(const char *name, void (*start)(void *), void *arg, uint32_t affinity);
void		 thread_exit(void) __attribute__((noreturn));
void		 thread_yield(void);
/* Changes the mask; a thread on a CPU that it no longer may use moves at its next yield. */
void		 thread_setaffinity(struct thread *td, uint32_t mask);
struct thread	*thread_find(uint32_t tid);

/* Something else wants this CPU (or the thread is to move). True between an interrupt and the next yield. */
static inline bool thread_ast_pending(void);

/*
 * Sleep on any address until wakeup() of the same or until the TSC reaches `deadline` (0 = no limit). `lock` is held
 * on entry and on return, and released in between. 0, or EINTR when td_interrupt is set.
 */
int	msleep(const void *chan, struct spinlock *lock, uint64_t deadline);
void	wakeup(const void *chan);
void	thread_interrupt(struct thread *td);
/* As in ptrace: into or out of the pcb of a thread that may be running. 0 or EINVAL for a value FreeBSD refuses. */
struct dbreg {
	uint64_t dr[4];
	uint64_t dr6;
	uint64_t dr7;
};
int	set_dbregs(struct thread *td, const struct dbreg *regs);
void	fill_dbregs(struct thread *td, struct dbreg *regs);

#include "pcpu.h"

static inline bool
thread_ast_pending(void)
{
	return (curpcpu()->pc_ast != 0);
}

#endif
