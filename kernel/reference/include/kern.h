/* What the kernel offers to everything above it. */
#ifndef KERN_H
#define KERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pcpu.h"

#define PAGE_SIZE	4096u
#define PAGE_MASK	(PAGE_SIZE - 1)
#define trunc_page(a)	((a) & ~(uint64_t)PAGE_MASK)
#define nitems(array)	(sizeof(array) / sizeof((array)[0]))
#define KSTACK_PAGES	4

/* errno, FreeBSD's numbers */
#define ENOENT		2
#define EIO		5
#define ENXIO		6
#define ENOMEM		12
#define EFAULT		14
#define EBUSY		16
#define EOPNOTSUPP	45
#define EEXIST		17
#define EINVAL		22
#define ENOSPC		28

/* kern/libkern.c */
void	*memcpy(void *to, const void *from, size_t length);
void	*memset(void *to, int byte, size_t length);
int	 memcmp(const void *a, const void *b, size_t length);
size_t	 strlen(const char *text);
int	 strcmp(const char *a, const char *b);
int	 strncmp(const char *a, const char *b, size_t length);
uint64_t strtou64(const char *text);
uint32_t crc32(const void *data, size_t length);
int	 snprintf(char *buffer, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
int	 vsnprintf(char *buffer, size_t size, const char *format, __builtin_va_list ap);
/* A line of the kernel's message buffer; goes to the control channel. */
void	 printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The end: tells why on the control channel, then stops both CPUs. */
void	 panic(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#define KASSERT(cond, ...)	do { if (__builtin_expect(!(cond), 0)) panic(__VA_ARGS__); } while (0)

/* The CPU that panicked first, or NOCPU. Every other one stops at its next NMI. */
#define NOCPU		(-1)
extern volatile int panic_cpu;
void	 cpu_stop(void) __attribute__((noreturn));	/* kern/smp.c: this CPU, for ever */

/* kern/mem.c: pages are zeroed; NULL when there are none left. Physical addresses equal virtual ones. */
void	 mem_init(void);
void	*contigalloc(unsigned pages);
void	 contigfree(void *pages_, unsigned pages);
void	*kzalloc(size_t size);
void	 kfree(void *memory);
static inline uint64_t vtophys(const void *p) { return ((uint64_t)(uintptr_t)p); }

/* kern/lock.c */
struct mtx { volatile uint32_t owned; };
void	 mtx_lock_spin(struct mtx *mtx);
void	 mtx_unlock_spin(struct mtx *mtx);

/* kern/smp.c */
void	 smp_start(void);
void	 smp_rendezvous(void (*function)(void *), void *arg);
void	 cpu_kick(int cpu);		/* an NMI: whatever runs there, it exits the guest */
void	 cpu_setup(int cpu);
void	 restore_host_tss(void);
void	 apic_timer_start(uint32_t ticks);	/* a tick each so many of the usual ones */
void	 apic_eoi(void);
void	 nmi_tick_start(void);		/* kern/nmitick.c */

/* kern/sched.c */
#define PCB_FULL_IRET	0x01			/* the way back to user mode loads the bases below */
#define PCB_DBREGS	0x02

struct pcb {
	uint32_t pcb_flags;
	uint64_t pcb_dr0, pcb_dr1, pcb_dr2, pcb_dr3, pcb_dr6, pcb_dr7;
	uint64_t pcb_fsbase, pcb_gsbase;	/* of user mode: where thread-local storage is */
};

struct thread {
	uint64_t td_rsp;			/* saved stack pointer while not running */
	struct pcb td_pcb;
	char	 td_name[20];
	uint32_t td_cpumask;			/* where it may run */
	volatile int td_oncpu;			/* -1: not running */
	volatile bool td_waiting;		/* polls for something: the CPU may rest */
	volatile bool td_exited;
	volatile bool td_stopped;
	bool	 td_used;
	void	 (*td_function)(void *);
	void	*td_arg;
	void	*td_stack;
	volatile uint64_t td_hits, td_foreign, td_touches;	/* sentinels: see kern/witness.c */
	uint64_t td_watch;
};

struct thread *kthread_add(const char *name, void (*function)(void *), void *arg, uint32_t cpumask);
void	 sched_yield(void);
void	 update_pcb_bases(struct pcb *pcb);	/* of the current thread: from here on others may load theirs */
void	 user_return(void);			/* what a thread does as user mode follows */
/* Yield while polling; the CPU halts until its next tick when all its threads only wait. */
void	 sched_wait(void);
bool	 sched_others(void);			/* does a thread but this one do more than poll? */
void	 sched_bind(int cpu);			/* move the current thread there, now */
void	 thread_setcpu(struct thread *td, uint32_t cpumask);
void	 thread_reap(struct thread *td);	/* of one that exited */
void	 sched_idle(void) __attribute__((noreturn));

/* kern/trap.c */
void	 trap_init(void);
void	 idt_load(void);
/* Reads or writes an MSR that may not exist: EFAULT instead of a #GP. */
int	 rdmsr_safe(uint32_t msr, uint64_t *value);
int	 wrmsr_safe(uint32_t msr, uint64_t value);

/* kern/ctl.c, the control channel */
void	 ctl_init(void);
void	 ctl_thread(void *arg);
void	 ctl_event(uint8_t code, const void *payload, size_t length);
void	 ctl_event_named(uint8_t code, const char *name, const void *payload, size_t length);

/* kern/witness.c */
struct host_debug_state { uint64_t dr[4], dr6, dr7, debugctl; };
void	 witness_plant(const struct host_debug_state *state);	/* on this CPU */
void	 witness_read(struct host_debug_state *state);
uint64_t witness_touch(uint32_t count);
extern volatile uint64_t witness_variable;
int	 sentinel_start(uint32_t id, int cpu, const struct pcb *pcb, uint32_t per_slice, uint64_t *address);
int	 sentinel_stop(uint32_t id, struct thread *out);

/* tunables and switches given at module load */
bool	 tunable_fetch(const char *name, uint64_t *value);

#endif
