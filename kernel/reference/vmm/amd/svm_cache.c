#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm.h"
#include "svm_cache.h"
#include "vmcb.h"

/*
 * Everything VMRUN and VMLOAD read, by clean bit. VMCB_CACHE_NONE and VMCB_CACHE_LBR are loaded every time: for the
 * former there is no clean bit, the latter is never set by this hypervisor.
 */
struct vmcb_field {
	uint16_t offset;
	uint16_t bytes;
	uint32_t group;
};

static const struct vmcb_field loaded_fields[] = {
	{ 0x000, 0x040, VMCB_CACHE_I },		/* intercepts, pause filter */
	{ 0x040, 0x010, VMCB_CACHE_IOPM },	/* IOPM_BASE_PA, MSRPM_BASE_PA */
	{ 0x050, 0x008, VMCB_CACHE_I },		/* TSC_OFFSET */
	{ 0x058, 0x004, VMCB_CACHE_ASID },
	{ 0x05c, 0x004, VMCB_CACHE_NONE },	/* TLB_CONTROL */
	{ 0x060, 0x008, VMCB_CACHE_TPR },
	{ 0x068, 0x008, VMCB_CACHE_NONE },	/* interrupt shadow */
	{ 0x090, 0x008, VMCB_CACHE_NP },	/* NP_ENABLE */
	{ 0x0a8, 0x008, VMCB_CACHE_NONE },	/* EVENTINJ */
	{ 0x0b0, 0x008, VMCB_CACHE_NP },	/* N_CR3 */
	{ 0x0b8, 0x008, VMCB_CACHE_LBR },
	{ 0x400, 0x040, VMCB_CACHE_SEG },	/* ES, CS, SS, DS */
	{ 0x440, 0x020, VMCB_CACHE_NONE },	/* FS, GS */
	{ 0x460, 0x010, VMCB_CACHE_DT },	/* GDTR */
	{ 0x470, 0x010, VMCB_CACHE_NONE },	/* LDTR */
	{ 0x480, 0x010, VMCB_CACHE_DT },	/* IDTR */
	{ 0x490, 0x010, VMCB_CACHE_NONE },	/* TR */
	{ 0x4cb, 0x001, VMCB_CACHE_SEG },	/* CPL */
	{ 0x4d0, 0x008, VMCB_CACHE_CR },	/* EFER */
	{ 0x548, 0x018, VMCB_CACHE_CR },	/* CR4, CR3, CR0 */
	{ 0x560, 0x010, VMCB_CACHE_DR },	/* DR7, DR6 */
	{ 0x570, 0x010, VMCB_CACHE_NONE },	/* RFLAGS, RIP */
	{ 0x5d8, 0x008, VMCB_CACHE_NONE },	/* RSP */
	{ 0x5f8, 0x048, VMCB_CACHE_NONE },	/* RAX, STAR .. SYSENTER_EIP */
	{ 0x640, 0x008, VMCB_CACHE_CR2 },
	{ 0x668, 0x008, VMCB_CACHE_NP },	/* G_PAT */
	{ 0x670, 0x028, VMCB_CACHE_LBR },	/* DEBUGCTL, branch records */
};

/* What #VMEXIT and VMSAVE write. Intercepts, maps, ASID and nested paging are only ever read. */
static const struct vmcb_field exit_fields[] = {
	{ 0x060, 0x002, 0 },			/* V_TPR, V_IRQ */
	{ 0x068, 0x008, 0 },			/* interrupt shadow */
	{ 0x070, 0x020, 0 },			/* EXITCODE, EXITINFO1, EXITINFO2, EXITINTINFO */
	{ 0x0a8, 0x008, 0 },			/* EVENTINJ, its valid bit now clear */
	{ 0x0c8, 0x018, 0 },			/* NRIP, instruction bytes */
	{ 0x400, 0x298, 0 },			/* the state save area */
};

#define CACHED_VMCBS	4			/* per CPU: more than the guests a test runs on one CPU */

/* The processor's copies. A copy is also the block the processor runs from, so that it follows the guest. */
struct cached_vmcb {
	_Alignas(4096) uint8_t copy[4096];
};

static struct cached_vmcb	cached[MAXCPU][CACHED_VMCBS];
static uint64_t			cached_pa[MAXCPU][CACHED_VMCBS];	/* 0 = empty */
static uint64_t			cached_used[MAXCPU][CACHED_VMCBS];
static uint64_t			cached_clock[MAXCPU];
static int			running_slot[MAXCPU];

/* Each repetition counts as an instruction in the emulator: words where the field is made of them. */
static inline void
copy_field(void *to, const void *from, const struct vmcb_field *field)
{
	uint8_t *t = (uint8_t *)to + field->offset;
	const uint8_t *f = (const uint8_t *)from + field->offset;
	uint64_t count = field->bytes;

	if (count % 8 == 0) {
		count /= 8;
		__asm__ __volatile__("rep movsq" : "+D"(t), "+S"(f), "+c"(count) : : "memory");
	} else {
		__asm__ __volatile__("rep movsb" : "+D"(t), "+S"(f), "+c"(count) : : "memory");
	}
}

void
svm_cache_init(void)
{
	for (int cpu = 0; cpu < MAXCPU; cpu++) {
		for (int slot = 0; slot < CACHED_VMCBS; slot++)
			cached_pa[cpu][slot] = 0;
	}
}

/* The slot of a VMCB on this CPU; a VMCB seen for the first time takes the least recently used one, empty. */
static int
cache_slot(int cpu, uint64_t vmcb_pa, bool *hit)
{
	int oldest = 0;

	for (int slot = 0; slot < CACHED_VMCBS; slot++) {
		if (cached_pa[cpu][slot] == vmcb_pa) {
			*hit = true;
			return (slot);
		}
		if (cached_used[cpu][slot] < cached_used[cpu][oldest])
			oldest = slot;
	}
	*hit = false;
	return (oldest);
}

uint64_t
svm_cache_load(int cpu, const struct vmcb *vmcb, uint64_t vmcb_pa)
{
	bool hit;
	int slot = cache_slot(cpu, vmcb_pa, &hit);
	uint32_t clean = hit ? vmcb->ctrl.vmcb_clean : 0;
	struct vmcb *run = (struct vmcb *)cached[cpu][slot].copy;

	for (size_t i = 0; i < sizeof(loaded_fields) / sizeof(loaded_fields[0]); i++) {
		if ((loaded_fields[i].group & clean) == 0)
			copy_field(run, vmcb, &loaded_fields[i]);
	}
	run->ctrl.vmcb_clean = 0;
	cached_pa[cpu][slot] = vmcb_pa;
	cached_used[cpu][slot] = ++cached_clock[cpu];
	running_slot[cpu] = slot;

	/* VMRUN loads CR2 (APM volume 2, 15.5.1); the one of Bochs 2.7 leaves that out. */
	__asm__ __volatile__("mov %0, %%cr2" : : "r"(run->state.cr2));
	return (vtophys(run));
}

void
svm_cache_store(int cpu, struct vmcb *vmcb)
{
	int slot = running_slot[cpu];
	const struct vmcb *run = (const struct vmcb *)cached[cpu][slot].copy;

	if (run->ctrl.exitcode == VMCB_EXIT_INVALID) {
		/* The guest never ran: only the exit code is defined, and nothing is worth keeping. */
		vmcb->ctrl.exitcode = run->ctrl.exitcode;
		cached_pa[cpu][slot] = 0;
		return;
	}
	for (size_t i = 0; i < sizeof(exit_fields) / sizeof(exit_fields[0]); i++)
		copy_field(vmcb, run, &exit_fields[i]);
}
