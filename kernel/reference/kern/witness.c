/*
 * Witnesses of the host's own debug state: values planted into a CPU and read back, a variable under a host
 * watchpoint whose hits are counted, single-stepping of the host through VM entry, and sentinels - ordinary threads
 * with debug registers of their own.
 */
#include "cpufunc.h"
#include "kern.h"
#include "trap.h"

#define DR6_B		0xfull
#define DR6_BS		(1ull << 14)
#define SENTINELS	4

volatile uint64_t witness_variable;

void
witness_plant(const struct host_debug_state *state)
{
	load_dr7(DR7_RESET_VALUE);
	load_dr0(state->dr[0]);
	load_dr1(state->dr[1]);
	load_dr2(state->dr[2]);
	load_dr3(state->dr[3]);
	load_dr6(state->dr6);
	curpcpu()->pc_debugctl = state->debugctl;
	load_dr7(state->dr7);
}

void
witness_read(struct host_debug_state *state)
{
	state->dr[0] = rdr0();
	state->dr[1] = rdr1();
	state->dr[2] = rdr2();
	state->dr[3] = rdr3();
	state->dr6 = rdr6();
	state->dr7 = rdr7();
	state->debugctl = curpcpu()->pc_debugctl;
}

uint64_t
witness_touch(uint32_t count)
{
	struct pcpu *pc = curpcpu();
	uint64_t before = pc->pc_hits;

	for (; count != 0; count--)
		witness_variable = count;
	return (pc->pc_hits - before);
}

/* Does one of the reported breakpoints watch the variable? */
static bool
witness_watched(uint64_t dr6)
{
	uint64_t dr[4] = { rdr0(), rdr1(), rdr2(), rdr3() };

	for (int n = 0; n < 4; n++)
		if ((dr6 & 1 << n) != 0 && dr[n] == (uint64_t)(uintptr_t)&witness_variable)
			return (true);
	return (false);
}

/*
 * A #DB in the host: whose is it? Everything is counted, nothing is fatal, so that a leak can be reported. The
 * breakpoint bits are cleared for the next one; BS stays as the processor left it, so that a step that hits while a
 * guest's DR6 is loaded is not covered up.
 */
void
witness_debug_trap(uint64_t dr6, struct trapframe *frame)
{
	struct pcpu *pc = curpcpu();
	struct thread *td = pc->pc_curthread;

	/* An instruction breakpoint would hit again at once. */
	frame->rflags |= PSL_RF;
	if ((dr6 & DR6_BS) != 0) {
		if (pc->pc_step)
			pc->pc_steps++;
		else
			frame->rflags &= ~PSL_T;
	}
	if ((dr6 & DR6_B) == 0)
		return;
	load_dr6(dr6 & ~DR6_B);
	if (td != NULL && td->td_watch != 0) {
		if (rdr0() == td->td_watch && (dr6 & 1) != 0)
			td->td_hits++;
		else
			td->td_foreign++;
	} else if (witness_watched(dr6)) {
		pc->pc_hits++;
	} else {
		pc->pc_foreign++;
		/* A stray watchpoint on the stack would be hit for ever. */
		load_dr7(DR7_RESET_VALUE);
	}
}

static struct sentinel {
	bool used;
	volatile bool stop;
	uint32_t per_slice;
	struct thread *td;
	volatile uint64_t variable;
	struct pcb final;
} sentinels[SENTINELS];
static uint32_t sentinel_ids[SENTINELS];

static void
sentinel_main(void *arg)
{
	struct sentinel *s = arg;
	struct thread *td = curthread();

	while (!s->stop) {
		user_return();
		for (uint32_t n = 0; n < s->per_slice; n++) {
			s->variable = n;
			td->td_touches++;
		}
		sched_yield();
	}
	/* What the hardware holds at the end, as a switch away would have stored it. */
	update_pcb_bases(&td->td_pcb);
	s->final = td->td_pcb;
	s->final.pcb_dr0 = rdr0();
	s->final.pcb_dr1 = rdr1();
	s->final.pcb_dr2 = rdr2();
	s->final.pcb_dr3 = rdr3();
	s->final.pcb_dr6 = rdr6();
	s->final.pcb_dr7 = rdr7();
	/* Thread exit clears the registers, as reset_dbregs() does. */
	td->td_pcb.pcb_flags &= ~(uint32_t)PCB_DBREGS;
	load_dr7(DR7_RESET_VALUE);
	load_dr0(0);
	load_dr1(0);
	load_dr2(0);
	load_dr3(0);
	load_dr6(DR6_RESET_VALUE);
}

/*
 * Starts a thread on `cpu` whose DR0-3, 6, 7 and bases are those of `pcb`. A DR0 of all ones stands for the address of the
 * thread's own variable, which is returned.
 */
int
sentinel_start(uint32_t id, int cpu, const struct pcb *pcb, uint32_t per_slice, uint64_t *address)
{
	for (int n = 0; n < SENTINELS; n++) {
		struct sentinel *s = &sentinels[n];

		if (s->used)
			continue;
		memset(s, 0, sizeof(*s));
		s->per_slice = per_slice;
		*address = (uint64_t)(uintptr_t)&s->variable;
		s->td = kthread_add("sentinel", sentinel_main, s, 0);
		if (s->td == NULL)
			return (ENOMEM);
		s->used = true;
		sentinel_ids[n] = id;
		s->td->td_pcb = *pcb;
		s->td->td_pcb.pcb_flags = PCB_DBREGS | PCB_FULL_IRET;
		if (pcb->pcb_dr0 == ~0ull)
			s->td->td_pcb.pcb_dr0 = *address;
		if ((pcb->pcb_dr7 & 3) != 0)
			s->td->td_watch = s->td->td_pcb.pcb_dr0;
		thread_setcpu(s->td, 1u << cpu);
		/* Its CPU may sleep until its next tick: whoever asked finds it at work. */
		while (per_slice != 0 && s->td->td_touches == 0)
			sched_wait();
		return (0);
	}
	return (EBUSY);
}

int
sentinel_stop(uint32_t id, struct thread *out)
{
	for (int n = 0; n < SENTINELS; n++) {
		struct sentinel *s = &sentinels[n];

		if (!s->used || sentinel_ids[n] != id)
			continue;
		s->stop = true;
		while (!s->td->td_exited)
			sched_wait();
		*out = *s->td;
		out->td_pcb = s->final;
		thread_reap(s->td);
		s->used = false;
		return (0);
	}
	return (ENOENT);
}
