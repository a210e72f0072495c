/*
 * Threads: a run queue per CPU, round robin, switched only where a thread asks for it. A tick merely marks that the
 * guest on this CPU has had its time. Debug registers follow FreeBSD's cpu_switch(): a thread that has its own
 * (PCB_DBREGS) has them saved and loaded, any other leaves the processor's as they are. FS and GS base of user mode
 * follow it too: they are kept when a thread may lose them and loaded where it goes back to user mode (user_return()).
 * There is no user mode here; what a bhyve process does outside of vm_run(), and a sentinel at its touches, stands for it.
 */
#include "cpufunc.h"
#include "defects.h"
#include "kern.h"

#define THREADS		24
#define SLICE_NAME	20

void cpu_switch(uint64_t *save_rsp, uint64_t load_rsp);
void thread_trampoline(void);
void thread_start(void);

static struct thread threads[THREADS];
static struct mtx sched_mtx;
static int last_picked[MAXCPU];

/* DR7 of a thread that is switched out keeps no enable bits: its breakpoints must not hit in others. */
#define DR7_KEPT	0xfc00ull

static void
save_debug_registers(struct pcb *pcb)
{
	if ((pcb->pcb_flags & PCB_DBREGS) == 0)
		return;
	pcb->pcb_dr7 = rdr7();
	load_dr7(pcb->pcb_dr7 & DR7_KEPT);
	pcb->pcb_dr0 = rdr0();
	pcb->pcb_dr1 = rdr1();
	pcb->pcb_dr2 = rdr2();
	pcb->pcb_dr3 = rdr3();
	pcb->pcb_dr6 = rdr6();
}

static void
load_debug_registers(const struct pcb *pcb)
{
	if ((pcb->pcb_flags & PCB_DBREGS) == 0)
		return;
	load_dr0(pcb->pcb_dr0);
	load_dr1(pcb->pcb_dr1);
	load_dr2(pcb->pcb_dr2);
	load_dr3(pcb->pcb_dr3);
	load_dr6(pcb->pcb_dr6);
	load_dr7((rdr7() & DR7_KEPT) | (pcb->pcb_dr7 & ~DR7_KEPT));
}

/* The kernel's own GS base is live: user mode's waits for SWAPGS in KGSBASE. */
void
update_pcb_bases(struct pcb *pcb)
{
	if ((pcb->pcb_flags & PCB_FULL_IRET) != 0)
		return;
	pcb->pcb_fsbase = rdmsr(MSR_FSBASE);
	pcb->pcb_gsbase = rdmsr(MSR_KGSBASE);
	pcb->pcb_flags |= PCB_FULL_IRET;
}

void
user_return(void)
{
	struct pcb *pcb = &curthread()->td_pcb;

	if ((pcb->pcb_flags & PCB_FULL_IRET) == 0)
		return;
	pcb->pcb_flags &= ~(uint32_t)PCB_FULL_IRET;
	wrmsr(MSR_FSBASE, pcb->pcb_fsbase);
	wrmsr(MSR_KGSBASE, pcb->pcb_gsbase);
}

/* Called with sched_mtx held and interrupts off; the next runnable thread of this CPU, or its idle thread. */
static struct thread *
choose(int cpu)
{
	for (int n = 1; n <= THREADS; n++) {
		int index = (last_picked[cpu] + n) % THREADS;
		struct thread *td = &threads[index];

		if (td->td_used && !td->td_exited && !td->td_stopped && td->td_oncpu == -1 &&
		    (td->td_cpumask & (1u << cpu)) != 0) {
			last_picked[cpu] = index;
			return (td);
		}
	}
	return (pcpus[cpu].pc_idlethread);
}

static void
mi_switch(void)
{
	struct pcpu *pc;
	struct thread *old, *new;
	uint64_t rflags = read_rflags();

	disable_intr();
	mtx_lock_spin(&sched_mtx);
	pc = curpcpu();
	old = pc->pc_curthread;
	new = choose(pc->pc_cpuid);
	pc->pc_ast = 0;
	if (new == old || (new == pc->pc_idlethread && !old->td_exited && !old->td_stopped &&
	    (old->td_cpumask & (1u << pc->pc_cpuid)) != 0)) {
		mtx_unlock_spin(&sched_mtx);
		write_rflags(rflags);
		return;
	}
	save_debug_registers(&old->td_pcb);
	if (!defect(DEFECT_CORE_SWITCH_KEEPS_BASES))
		update_pcb_bases(&old->td_pcb);
	new->td_oncpu = pc->pc_cpuid;
	pc->pc_curthread = new;
	/* The lock is handed to the new thread: the old stack is in use until the switch is done. */
	cpu_switch(&old->td_rsp, new->td_rsp);
	/* Some other CPU may be running this now; what was switched away is named by the per-CPU data of this one. */
	pc = curpcpu();
	for (int n = 0; n < THREADS; n++)
		if (&threads[n] != pc->pc_curthread && threads[n].td_oncpu == pc->pc_cpuid)
			threads[n].td_oncpu = -1;
	load_debug_registers(&pc->pc_curthread->td_pcb);
	mtx_unlock_spin(&sched_mtx);
	write_rflags(rflags);
}

/* First code of a new thread: finishes the switch that mi_switch() began. */
void
thread_start(void)
{
	struct pcpu *pc = curpcpu();
	struct thread *td = pc->pc_curthread;

	for (int n = 0; n < THREADS; n++)
		if (&threads[n] != td && threads[n].td_oncpu == pc->pc_cpuid)
			threads[n].td_oncpu = -1;
	load_debug_registers(&td->td_pcb);
	mtx_unlock_spin(&sched_mtx);
	enable_intr();
	td->td_function(td->td_arg);
	td->td_exited = true;
	for (;;)
		mi_switch();
}

void
sched_yield(void)
{
	curthread()->td_waiting = false;
	mi_switch();
}

/* Is there anything on this CPU that does more than poll? */
static bool
cpu_busy(int cpu)
{
	for (int n = 0; n < THREADS; n++) {
		const struct thread *td = &threads[n];

		if (td->td_used && !td->td_exited && !td->td_stopped && !td->td_waiting &&
		    (td->td_cpumask & (1u << cpu)) != 0 && (td->td_oncpu == -1 || td->td_oncpu == cpu))
			return (true);
	}
	return (false);
}

/* Is there any thread on any CPU, but for this one, that does more than poll? */
bool
sched_others(void)
{
	for (int n = 0; n < THREADS; n++) {
		const struct thread *td = &threads[n];

		if (td->td_used && !td->td_exited && !td->td_stopped && !td->td_waiting && td != curthread())
			return (true);
	}
	return (false);
}

void
sched_wait(void)
{
	curthread()->td_waiting = true;
	if (!cpu_busy(curcpu()))
		__asm__ __volatile__("sti; hlt" : : : "memory");
	mi_switch();
	curthread()->td_waiting = false;
}

struct thread *
kthread_add(const char *name, void (*function)(void *), void *arg, uint32_t cpumask)
{
	struct thread *td = NULL;
	uint64_t *stack;

	mtx_lock_spin(&sched_mtx);
	for (int n = 0; n < THREADS && td == NULL; n++)
		if (!threads[n].td_used)
			td = &threads[n];
	if (td == NULL) {
		mtx_unlock_spin(&sched_mtx);
		return (NULL);
	}
	memset(td, 0, sizeof(*td));
	td->td_oncpu = -1;
	td->td_stopped = true;
	td->td_used = true;
	mtx_unlock_spin(&sched_mtx);
	td->td_stack = contigalloc(KSTACK_PAGES);
	if (td->td_stack == NULL) {
		td->td_used = false;
		return (NULL);
	}
	snprintf(td->td_name, SLICE_NAME, "%s", name);
	td->td_function = function;
	td->td_arg = arg;
	td->td_cpumask = cpumask;
	td->td_pcb.pcb_flags = PCB_FULL_IRET;
	stack = (uint64_t *)((uint8_t *)td->td_stack + KSTACK_PAGES * PAGE_SIZE) - 8;
	stack[6] = (uint64_t)(uintptr_t)thread_trampoline;	/* above six callee-saved registers */
	td->td_rsp = (uint64_t)(uintptr_t)stack;
	td->td_stopped = false;
	return (td);
}

void
thread_setcpu(struct thread *td, uint32_t cpumask)
{
	td->td_cpumask = cpumask;
	if (td->td_oncpu >= 0 && (cpumask & (1u << td->td_oncpu)) == 0) {
		pcpus[td->td_oncpu].pc_ast = 1;
		cpu_kick(td->td_oncpu);
	}
}

void
sched_bind(int cpu)
{
	curthread()->td_cpumask = 1u << cpu;
	while (curcpu() != cpu)
		mi_switch();
}

void
thread_reap(struct thread *td)
{
	while (!td->td_exited || td->td_oncpu != -1)
		sched_wait();
	contigfree(td->td_stack, KSTACK_PAGES);
	td->td_used = false;
}

/* Turns the code that booted a CPU into its idle thread. */
void
sched_idle(void)
{
	struct pcpu *pc = curpcpu();

	mtx_lock_spin(&sched_mtx);
	for (int n = 0; n < THREADS && pc->pc_idlethread == NULL; n++) {
		if (threads[n].td_used)
			continue;
		threads[n].td_used = true;
		threads[n].td_oncpu = pc->pc_cpuid;
		threads[n].td_waiting = true;
		/* No mask: it is taken by name only, when there is nothing else. */
		pc->pc_idlethread = &threads[n];
	}
	pc->pc_curthread = pc->pc_idlethread;
	mtx_unlock_spin(&sched_mtx);
	apic_timer_start(1);
	enable_intr();
	for (;;) {
		if (!cpu_busy(pc->pc_cpuid))
			__asm__ __volatile__("sti; hlt" : : : "memory");
		mi_switch();
	}
}
