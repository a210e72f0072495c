/* Requests about the host: processor, MSRs, witnesses, sentinels, probes, and bad behaviour on demand. */
#include "cpufunc.h"
#include "ctl.h"
#include "ctl_internal.h"
#include "fbt.h"

#define STEP_TICKS	20	/* so many times longer is the way into a guest when every instruction traps */

static int
hello(struct args *a)
{
	uint32_t regs[4], brand[12] = { 0 };

	give32(a, CTL_VERSION);
	cpuid_count(0, 0, regs);
	give32(a, regs[1] == 0x756e6547 ? 1 : 2);
	give32(a, MAXCPU);
	give32(a, regs[1]);
	give32(a, regs[3]);
	give32(a, regs[2]);
	cpuid_count(1, 0, regs);
	give32(a, regs[0]);
	for (unsigned n = 0; n < 3; n++)
		cpuid_count(0x80000002 + n, 0, &brand[4 * n]);
	give(a, brand, sizeof(brand));
	cpuid_count(0x80000000, 0, regs);
	if (regs[0] >= 0x8000000a)
		cpuid_count(0x8000000a, 0, regs);
	else
		regs[1] = regs[3] = 0;
	give32(a, regs[3]);
	give32(a, regs[1]);
	give64(a, rdtsc());
	return (0);
}

static void
give_state(struct args *a, const struct host_debug_state *state)
{
	for (int n = 0; n < 4; n++)
		give64(a, state->dr[n]);
	give64(a, state->dr6);
	give64(a, state->dr7);
	give64(a, state->debugctl);
}

/* The descriptor tables of this CPU. Of TR, what its descriptor in the GDT says: the busy bit is the processor's. */
static void
give_tables(struct args *a)
{
	struct region_descriptor gdtr, idtr;
	const uint64_t *descriptor;
	uint16_t tr;

	sgdt(&gdtr);
	sidt(&idtr);
	__asm__ __volatile__("str %0" : "=r"(tr));
	descriptor = (const uint64_t *)(uintptr_t)(gdtr.base + (tr & ~7u));
	give64(a, gdtr.base);
	give64(a, gdtr.limit);
	give64(a, idtr.base);
	give64(a, idtr.limit);
	give64(a, sldt());
	give64(a, tr);
	give64(a, ((descriptor[0] >> 16) & 0xffffff) | ((descriptor[0] >> 32) & 0xff000000) | descriptor[1] << 32);
	give64(a, (descriptor[0] & 0xffff) | ((descriptor[0] >> 32) & 0xf0000));
}

static int
witness(struct args *a, uint8_t code)
{
	struct host_debug_state state;
	struct pcpu *pc;
	uint32_t cpu = (uint32_t)take(a, 4), msr;
	uint64_t value;
	int error = 0;

	if (a->bad || cpu >= MAXCPU)
		return (EINVAL);
	sched_bind((int)cpu);
	pc = curpcpu();
	switch (code) {
	case CTL_WITNESS_PLANT:
		for (int n = 0; n < 4; n++)
			state.dr[n] = take(a, 8);
		state.dr6 = take(a, 8);
		state.dr7 = take(a, 8);
		state.debugctl = take(a, 8);
		if (!a->bad)
			witness_plant(&state);
		/* FALLTHROUGH */
	case CTL_WITNESS_READ:
		witness_read(&state);
		give_state(a, &state);
		break;
	case CTL_WITNESS_TOUCH:
		give64(a, witness_touch((uint32_t)take(a, 4)));
		break;
	case CTL_WITNESS_STEP:
		if (take(a, 4) != 0) {
			pc->pc_steps = pc->pc_tf_lost = pc->pc_entries = 0;
			pc->pc_step = true;
			apic_timer_start(STEP_TICKS);
		} else {
			pc->pc_step = false;
			apic_timer_start(1);
		}
		give64(a, pc->pc_steps);
		give64(a, pc->pc_tf_lost);
		give64(a, pc->pc_entries);
		break;
	case CTL_WITNESS_TABLES:
		give_tables(a);
		break;
	case CTL_MSR_READ:
		msr = (uint32_t)take(a, 4);
		error = msr == MSR_DEBUGCTLMSR ? 0 : rdmsr_safe(msr, &value);
		if (msr == MSR_DEBUGCTLMSR)
			value = pc->pc_debugctl;
		if (error == 0)
			give64(a, value);
		break;
	case CTL_MSR_WRITE:
		msr = (uint32_t)take(a, 4);
		value = take(a, 8);
		if (msr == MSR_DEBUGCTLMSR)
			pc->pc_debugctl = value;
		else
			error = wrmsr_safe(msr, value);
		break;
	case CTL_CPUID: {
		uint32_t leaf = (uint32_t)take(a, 4), regs[4];

		cpuid_count(leaf, (uint32_t)take(a, 4), regs);
		give(a, regs, sizeof(regs));
		break;
	}
	}
	sched_bind(0);
	return (a->bad ? EINVAL : error);
}

void
ctl_take_pcb(struct args *a, struct pcb *pcb)
{
	memset(pcb, 0, sizeof(*pcb));
	pcb->pcb_dr0 = take(a, 8);
	pcb->pcb_dr1 = take(a, 8);
	pcb->pcb_dr2 = take(a, 8);
	pcb->pcb_dr3 = take(a, 8);
	pcb->pcb_dr6 = take(a, 8);
	pcb->pcb_dr7 = take(a, 8);
}

void
ctl_give_pcb(struct args *a, const struct pcb *pcb)
{
	give64(a, pcb->pcb_dr0);
	give64(a, pcb->pcb_dr1);
	give64(a, pcb->pcb_dr2);
	give64(a, pcb->pcb_dr3);
	give64(a, pcb->pcb_dr6);
	give64(a, pcb->pcb_dr7);
}

static int
sentinel(struct args *a, uint8_t code)
{
	uint32_t id = (uint32_t)take(a, 4), cpu, touches;
	struct thread final;
	uint64_t address = 0;
	struct pcb pcb;
	int error;

	if (code == CTL_SENTINEL_START) {
		cpu = (uint32_t)take(a, 4);
		ctl_take_pcb(a, &pcb);
		if (a->bad || cpu >= MAXCPU)
			return (EINVAL);
		touches = (uint32_t)take(a, 4);
		pcb.pcb_fsbase = take(a, 8);
		pcb.pcb_gsbase = take(a, 8);
		if (a->bad)
			return (EINVAL);
		error = sentinel_start(id, (int)cpu, &pcb, touches, &address);
		give64(a, address);
		return (error);
	}
	error = sentinel_stop(id, &final);
	if (error == 0) {
		give64(a, final.td_touches);
		give64(a, final.td_hits);
		give64(a, final.td_foreign);
		ctl_give_pcb(a, &final.td_pcb);
		give64(a, final.td_pcb.pcb_fsbase);
		give64(a, final.td_pcb.pcb_gsbase);
	}
	return (error);
}

/* Without a word about it, everything that costs no more than the record itself. */
static bool
take_wanted(struct args *a, struct fbt_wanted *wanted)
{
	memset(wanted, 0, sizeof(*wanted));
	if (a->left == 0) {
		wanted->mask = FBT_WANT_ALL;
		return (true);
	}
	wanted->mask = (uint32_t)take(a, 4);
	wanted->count = (uint32_t)take(a, 4);
	if (a->bad || wanted->count > FBT_VALUES || a->left < wanted->count * sizeof(wanted->values[0]))
		return (false);
	memcpy(wanted->values, a->in, wanted->count * sizeof(wanted->values[0]));
	for (uint32_t n = 0; n < wanted->count; n++) {
		const struct fbt_value *value = &wanted->values[n];

		if (value->argument > 4 || value->steps == 0 || value->steps > FBT_STEPS || value->bytes == 0 ||
		    value->bytes > 8)
			return (false);
	}
	return (true);
}

static int
fbt(struct args *a, uint8_t code)
{
	struct fbt_wanted wanted;
	struct fbt_sites sites;
	struct fbt_counts counts;
	struct fbt_record records[4];
	uint64_t start;
	uint32_t id = 0, size, what, patched;
	size_t n, left;
	int error;

	if (code != CTL_FBT_LIST)
		id = (uint32_t)take(a, 4);
	switch (code) {
	case CTL_FBT_LIST:
		start = take(a, 8);
		size = (uint32_t)take(a, 4);
		if (a->bad)
			return (EINVAL);
		fbt_sites(start, size, &sites);
		give(a, &sites, 8 + 4 * sites.returns);
		return (0);
	case CTL_FBT_ENABLE:
		start = take(a, 8);
		size = (uint32_t)take(a, 4);
		what = (uint32_t)take(a, 4);
		if (a->bad || !take_wanted(a, &wanted))
			return (EINVAL);
		error = fbt_enable(id, start, size, what, &wanted, &patched);
		if (error == 0)
			give32(a, patched);
		return (error);
	case CTL_FBT_READ:
		left = CTL_BODY_MAX / sizeof(records[0]) - 1;
		left = id < left ? id : left;
		while (left != 0 && (n = fbt_read(records, left < nitems(records) ? left : nitems(records))) != 0) {
			give(a, records, n * sizeof(records[0]));
			left -= n;
		}
		return (0);
	default:
		error = code == CTL_FBT_DISABLE ? fbt_disable(id, &counts) : fbt_counts(id, &counts);
		if (error == 0)
			give(a, &counts, sizeof(counts));
		return (error);
	}
}

static void
hang(void *arg)
{
	(void)arg;
	cpu_stop();
}

static int
misbehave(uint32_t kind)
{
	static const struct region_descriptor none;

	switch (kind) {
	case 1:
		panic("panic requested");
	case 2:
		printf("hang requested\n");
		smp_rendezvous(hang, NULL);
		return (0);
	case 4:
		return (kthread_add("stuck", hang, NULL, 1u << 1) == NULL ? ENOMEM : 0);
	case 3:
		__asm__ __volatile__("lidt %0; ud2" : : "m"(none));
	}
	return (EINVAL);
}

bool
ctl_host_request(uint8_t code, struct args *a, int *error)
{
	switch (code) {
	case CTL_HELLO:
		*error = hello(a);
		return (true);
	case CTL_WITNESS_PLANT:
	case CTL_WITNESS_READ:
	case CTL_WITNESS_TOUCH:
	case CTL_WITNESS_STEP:
	case CTL_WITNESS_TABLES:
	case CTL_MSR_READ:
	case CTL_MSR_WRITE:
	case CTL_CPUID:
		*error = witness(a, code);
		return (true);
	case CTL_SENTINEL_START:
	case CTL_SENTINEL_STOP:
		*error = sentinel(a, code);
		return (true);
	case CTL_WITNESS_ADDRESS:
		give64(a, (uint64_t)(uintptr_t)&witness_variable);
		*error = 0;
		return (true);
	case CTL_FBT_LIST:
	case CTL_FBT_ENABLE:
	case CTL_FBT_READ:
	case CTL_FBT_DISABLE:
	case CTL_FBT_COUNTS:
		*error = fbt(a, code);
		return (true);
	case CTL_MISBEHAVE:
		*error = misbehave((uint32_t)take(a, 4));
		return (true);
	default:
		return (false);
	}
}
