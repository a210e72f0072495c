#include "fbt.h"

#include "cpufunc.h"
#include "trap.h"

#define PUSH_RBP	0x55
#define RET		0xc3
#define INT3		0xcc
#define PATCHES		(FBT_PROBES * (FBT_RETURNS + 1) / 4)
#define RING		256		/* records of one CPU */

struct patch {
	volatile uint8_t *site;		/* NULL = free */
	uint32_t id;
	uint32_t what;
	uint32_t offset;
};

struct ring {
	struct fbt_record records[RING];
	volatile uint32_t head;		/* next to write: by the handler on its own CPU */
	volatile uint32_t tail;		/* next to read */
};

static struct patch patches[PATCHES];
static struct fbt_counts counters[MAXCPU][FBT_PROBES];
static struct ring rings[MAXCPU];
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
fbt_enable(uint32_t id, uint64_t start, uint32_t size, uint32_t what, uint32_t *patched)
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

static void
record(const struct patch *p, const struct trapframe *frame)
{
	/* All of this is reached through %gs, as in a real provider. */
	struct pcpu *pc = curpcpu();
	struct thread *td = curthread();
	struct fbt_counts *counts = &counters[pc->pc_cpuid][p->id];
	struct ring *ring = &rings[pc->pc_cpuid];
	struct fbt_record *r;
	uint64_t *rbp = (uint64_t *)(uintptr_t)frame->rbp;

	if (p->what == FBT_ENTRY)
		counts->entries++;
	else
		counts->returns++;
	if (ring->head - ring->tail >= RING) {
		counts->dropped++;
		return;
	}
	r = &ring->records[ring->head % RING];
	memset(r, 0, sizeof(*r));
	r->id = p->id;
	r->what = p->what;
	r->offset = p->offset;
	r->cpu = (uint32_t)pc->pc_cpuid;
	r->thread = (uint64_t)(uintptr_t)td;
	r->tsc = rdtsc();
	r->dr7 = rdr7();
	memcpy(r->name, td->td_name, sizeof(td->td_name));
	if (p->what == FBT_ENTRY) {
		r->args[0] = frame->rdi;
		r->args[1] = frame->rsi;
		r->args[2] = frame->rdx;
		r->args[3] = frame->rcx;
		r->args[4] = frame->r8;
	} else {
		r->args[0] = frame->rax;
	}
	/* The caller first; further frames only as long as %rbp points into this thread's stack and upwards. */
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
	ring->head++;
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

	for (int cpu = 0; cpu < MAXCPU; cpu++) {
		struct ring *ring = &rings[cpu];

		for (; n < count && ring->tail != ring->head; n++) {
			records[n] = ring->records[ring->tail % RING];
			ring->tail++;
		}
	}
	return (n);
}
