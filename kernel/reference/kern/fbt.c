#include "fbt.h"

#include "cpufunc.h"
#include "trap.h"

#define PUSH_RBP	0x55
#define RET		0xc3
#define INT3		0xcc
#define PATCHES		(FBT_PROBES * (FBT_RETURNS + 1) / 4)
#define RING		4096		/* records */
#define MEMORY_START	0x1000ull	/* what a record may copy from (kern/mem.c) */
#define MEMORY_END	0x7f00000ull

struct patch {
	volatile uint8_t *site;		/* NULL = free */
	uint32_t id;
	uint32_t what;
	uint32_t offset;
};

/* One for all CPUs, so that it tells what came first. Handlers run with interrupts off: so does whoever locks it. */
static struct {
	struct mtx mtx;
	struct fbt_record records[RING];
	uint32_t head;			/* next to write */
	uint32_t tail;			/* next to read */
} ring;

static struct patch patches[PATCHES];
static struct fbt_counts counters[MAXCPU][FBT_PROBES];
static struct fbt_wanted wanted_of[FBT_PROBES];
static volatile uint32_t enabled;	/* mask of ids */

void
fbt_sites(uint64_t start, uint32_t size, struct fbt_sites *sites)
{
	const uint8_t *code = (const uint8_t *)(uintptr_t)start;

	sites->entry = -1;
	sites->returns = 0;
	for (uint32_t at = 0; at < size;) {
		int length = insn_length(code + at);

		if (length == 0)
			return;
		if (sites->entry < 0 && length == 1 && code[at] == PUSH_RBP)
			sites->entry = (int32_t)at;
		if (length == 1 && code[at] == RET && sites->returns < FBT_RETURNS)
			sites->offset[sites->returns++] = at;
		at += (uint32_t)length;
	}
	if (sites->entry < 0)
		sites->returns = 0;
}

static int
patch(uint32_t id, uint64_t start, uint32_t offset, uint32_t what)
{
	for (unsigned i = 0; i < PATCHES; i++) {
		if (patches[i].site != NULL)
			continue;
		patches[i].id = id;
		patches[i].what = what;
		patches[i].offset = offset;
		patches[i].site = (volatile uint8_t *)(uintptr_t)(start + offset);
		/* The table is complete before the first CPU can meet the breakpoint. */
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		*patches[i].site = INT3;
		return (0);
	}
	return (ENOSPC);
}

int
fbt_enable(uint32_t id, uint64_t start, uint32_t size, uint32_t what, const struct fbt_wanted *wanted,
    uint32_t *patched)
{
	struct fbt_sites sites;
	int error = 0;

	*patched = 0;
	if (id >= FBT_PROBES)
		return (EINVAL);
	if ((enabled & (1u << id)) != 0)
		return (EBUSY);
	fbt_sites(start, size, &sites);
	if (sites.entry < 0)
		return (ENOENT);
	for (int cpu = 0; cpu < MAXCPU; cpu++)
		memset(&counters[cpu][id], 0, sizeof(counters[cpu][id]));
	wanted_of[id] = *wanted;
	enabled |= 1u << id;
	/* Returns first: a thread inside the function must not be seen to enter without leaving. */
	for (uint32_t n = 0; (what & FBT_RETURN) != 0 && n < sites.returns && error == 0; n++, ++*patched)
		error = patch(id, start, sites.offset[n], FBT_RETURN);
	if ((what & FBT_ENTRY) != 0 && error == 0) {
		error = patch(id, start, (uint32_t)sites.entry, FBT_ENTRY);
		++*patched;
	}
	if (error != 0)
		(void)fbt_disable(id, NULL);
	return (error);
}

int
fbt_counts(uint32_t id, struct fbt_counts *counts)
{
	if (id >= FBT_PROBES || (enabled & (1u << id)) == 0)
		return (ENOENT);
	memset(counts, 0, sizeof(*counts));
	for (int cpu = 0; cpu < MAXCPU; cpu++) {
		counts->entries += counters[cpu][id].entries;
		counts->returns += counters[cpu][id].returns;
		counts->dropped += counters[cpu][id].dropped;
	}
	return (0);
}

static void
settle(void *arg)
{
	(void)arg;
}

int
fbt_disable(uint32_t id, struct fbt_counts *counts)
{
	if (id >= FBT_PROBES || (enabled & (1u << id)) == 0)
		return (ENOENT);
	for (unsigned i = 0; i < PATCHES; i++) {
		if (patches[i].site != NULL && patches[i].id == id)
			*patches[i].site = patches[i].what == FBT_ENTRY ? PUSH_RBP : RET;
	}
	/* Every CPU has left its breakpoint handler before the table forgets the sites. */
	smp_rendezvous(settle, NULL);
	for (unsigned i = 0; i < PATCHES; i++) {
		if (patches[i].id == id)
			patches[i].site = NULL;
	}
	if (counts != NULL)
		(void)fbt_counts(id, counts);
	enabled &= ~(1u << id);
	return (0);
}

bool
fbt_active(void)
{
	return (enabled != 0);
}

static bool
copy_value(const struct fbt_value *value, uint64_t argument, uint64_t *out)
{
	uint64_t at = argument;

	for (unsigned n = 0; n < value->steps; n++) {
		bool last = n + 1 == value->steps;

		at += (uint64_t)(int64_t)value->offset[n];
		if (at < MEMORY_START || at > MEMORY_END - 8)
			return (false);
		*out = 0;
		memcpy(out, (const void *)(uintptr_t)at, last ? value->bytes : 8);
		at = *out;
	}
	return (true);
}

/* The caller first; further frames only as long as %rbp points into this thread's stack and upwards. */
static void
walk(struct fbt_record *r, const struct thread *td, const struct trapframe *frame)
{
	uint64_t *rbp = (uint64_t *)(uintptr_t)frame->rbp;

	r->frames[0] = *(uint64_t *)(uintptr_t)frame->rsp;
	for (int n = 1; n < FBT_FRAMES; n++) {
		uint64_t stack = (uint64_t)(uintptr_t)td->td_stack, at = (uint64_t)(uintptr_t)rbp;

		if (at < stack || at + 16 > stack + KSTACK_PAGES * PAGE_SIZE || (at & 7) != 0)
			break;
		r->frames[n] = rbp[1];
		if (rbp[0] <= at)
			break;
		rbp = (uint64_t *)(uintptr_t)rbp[0];
	}
}

/* Whether a record goes on as the two before it did, by turns: the time stamp and the count itself do not matter. */
static bool
repeats(const struct fbt_record *r)
{
	const struct fbt_record *last, *other;
	size_t behind = offsetof(struct fbt_record, args);

	/* A record that was handed out cannot be added to. */
	if (ring.head - ring.tail < 2)
		return (false);
	last = &ring.records[(ring.head - 1) % RING];
	other = &ring.records[(ring.head - 2 + last->repeats % 2) % RING];
	return (memcmp(r, other, offsetof(struct fbt_record, tsc)) == 0 &&
	    memcmp(r->args, other->args, offsetof(struct fbt_record, repeats) - behind) == 0);
}

static void
keep(const struct fbt_record *r, bool each, struct fbt_counts *counts)
{
	mtx_lock_spin(&ring.mtx);
	if (!each && repeats(r)) {
		ring.records[(ring.head - 1) % RING].repeats++;
	} else if (ring.head - ring.tail >= RING) {
		counts->dropped++;
	} else {
		ring.records[ring.head % RING] = *r;
		ring.head++;
	}
	mtx_unlock_spin(&ring.mtx);
}

static void
record(const struct patch *p, const struct trapframe *frame)
{
	/* All of this is reached through %gs, as in a real provider. */
	struct pcpu *pc = curpcpu();
	struct thread *td = curthread();
	struct fbt_counts *counts = &counters[pc->pc_cpuid][p->id];
	const struct fbt_wanted *wanted = &wanted_of[p->id];
	struct fbt_record r;

	memset(&r, 0, sizeof(r));
	r.id = p->id;
	r.what = p->what;
	r.offset = p->offset;
	r.cpu = (uint32_t)pc->pc_cpuid;
	r.thread = (uint64_t)(uintptr_t)td;
	r.tsc = rdtsc();
	if ((wanted->mask & FBT_WANT_DR7) != 0)
		r.dr7 = rdr7();
	memcpy(r.name, td->td_name, sizeof(td->td_name));
	if (p->what == FBT_ENTRY) {
		const uint64_t args[5] = { frame->rdi, frame->rsi, frame->rdx, frame->rcx, frame->r8 };

		counts->entries++;
		for (uint32_t n = 0; n < nitems(args); n++)
			if ((wanted->mask & (1u << n)) != 0)
				r.args[n] = args[n];
		for (uint32_t n = 0; n < wanted->count; n++)
			if (!copy_value(&wanted->values[n], args[wanted->values[n].argument], &r.values[n]))
				r.faults |= 1u << n;
	} else {
		counts->returns++;
		if ((wanted->mask & FBT_WANT_RESULT) != 0)
			r.args[0] = frame->rax;
	}
	if ((wanted->mask & FBT_WANT_FRAMES) != 0)
		walk(&r, td, frame);
	keep(&r, (wanted->mask & FBT_WANT_EACH) != 0, counts);
}

bool
fbt_trap(struct trapframe *frame)
{
	for (unsigned i = 0; i < PATCHES; i++) {
		const struct patch *p = &patches[i];

		if ((uint64_t)(uintptr_t)p->site != frame->rip - 1)
			continue;
		record(p, frame);
		/* The instruction that int3 replaced. */
		if (p->what == FBT_ENTRY) {
			frame->rsp -= 8;
			*(uint64_t *)(uintptr_t)frame->rsp = frame->rbp;
		} else {
			frame->rip = *(uint64_t *)(uintptr_t)frame->rsp;
			frame->rsp += 8;
		}
		return (true);
	}
	return (false);
}

size_t
fbt_read(struct fbt_record *records, size_t count)
{
	size_t n = 0;

	disable_intr();
	mtx_lock_spin(&ring.mtx);
	for (; n < count && ring.tail != ring.head; n++)
		records[n] = ring.records[ring.tail++ % RING];
	mtx_unlock_spin(&ring.mtx);
	enable_intr();
	return (n);
}
