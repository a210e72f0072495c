/* Exceptions and interrupts of the host. */
#include "cpufunc.h"
#include "kern.h"
#include "trap.h"

struct gate {
	uint16_t offset_low, selector;
	uint8_t ist, type;
	uint16_t offset_middle;
	uint32_t offset_high, reserved;
};

#define VECTOR_TICK	0x20
#define VECTOR_WAKEUP	0x21
#define VECTOR_SPURIOUS	0xff
#define VECTOR_STRIDE	16
#define STEP_NMIS	16
#define GATE_INTERRUPT	0x8e

extern char vector_table[], bp_entry[], db_entry[], msr_try_read[], msr_try_write[], msr_fault[];
int msr_try(uint32_t msr, uint64_t *value, int write);
void tick(void);
void trap(struct trapframe *frame);

static struct gate idt[256];

static void
set_gate(int vector, const char *handler, int ist)
{
	uint64_t entry = (uint64_t)(uintptr_t)handler;

	idt[vector] = (struct gate){ (uint16_t)entry, GSEL_CODE, (uint8_t)ist, GATE_INTERRUPT, (uint16_t)(entry >> 16),
	    (uint32_t)(entry >> 32), 0 };
}

/* Stacks as FreeBSD has them: #BP on the current one, #DF, NMI, #MC and #DB each on their own. */
void
trap_init(void)
{
	for (int n = 0; n < 256; n++)
		set_gate(n, vector_table + n * VECTOR_STRIDE, 0);
	set_gate(IDT_BP, bp_entry, 0);
	set_gate(IDT_DF, vector_table + IDT_DF * VECTOR_STRIDE, IST_DF);
	set_gate(IDT_NMI, vector_table + IDT_NMI * VECTOR_STRIDE, IST_NMI);
	set_gate(IDT_MC, vector_table + IDT_MC * VECTOR_STRIDE, IST_MC);
	set_gate(IDT_DB, db_entry, IST_DB);
}

void
idt_load(void)
{
	struct region_descriptor r = { sizeof(idt) - 1, (uint64_t)(uintptr_t)idt };

	lidt(&r);
}

uint64_t
host_idt_base(void)
{
	return ((uint64_t)(uintptr_t)idt);
}

int
rdmsr_safe(uint32_t msr, uint64_t *value)
{
	return (msr_try(msr, value, 0));
}

int
wrmsr_safe(uint32_t msr, uint64_t value)
{
	return (msr_try(msr, &value, 1));
}

/*
 * No handler can do anything without per-CPU data: it would fault on reaching for them, and the handler of that
 * fault again, until the machine resets. This takes the short way there.
 */
void
reset_machine(void)
{
	static const struct region_descriptor none;

	lidt(&none);
	__asm__ __volatile__("ud2");
	__builtin_unreachable();
}

static void
nmi(void)
{
	struct pcpu *pc = curpcpu();

	if (panic_cpu != NOCPU && panic_cpu != pc->pc_cpuid)
		cpu_stop();
	pc->pc_nmis++;
	/* A stepped way into the guest takes longer than the time between two of these: most of them let it pass. */
	if (!pc->pc_step || pc->pc_nmis % STEP_NMIS == 0)
		pc->pc_ast = 1;
}

void
trap(struct trapframe *frame)
{
	struct pcpu *pc = (struct pcpu *)(uintptr_t)rdmsr(MSR_GSBASE);
	uint64_t dr6;

	if (pc < pcpus || pc >= &pcpus[MAXCPU] || pc->pc_prvspace != pc)
		reset_machine();
	switch (frame->vector) {
	case IDT_DB:
		dr6 = rdr6();
		witness_debug_trap(dr6, frame);
		return;
	case IDT_NMI:
		nmi();
		return;
	case IDT_BP:
		if (fbt_trap(frame))
			return;
		break;
	case IDT_GP:
		if (frame->rip == (uint64_t)(uintptr_t)msr_try_read || frame->rip == (uint64_t)(uintptr_t)msr_try_write) {
			frame->rip = (uint64_t)(uintptr_t)msr_fault;
			return;
		}
		break;
	case VECTOR_TICK:
		tick();
		return;
	case VECTOR_WAKEUP:
		apic_eoi();
		return;
	case VECTOR_SPURIOUS:
		return;
	}
	panic_frame(frame);
}

void
panic_frame(const struct trapframe *frame)
{
	panic("fatal trap %lu error %#lx cpu %d thread %s\n"
	    "rip %#lx rsp %#lx rbp %#lx rflags %#lx cr2 %#lx\n"
	    "rax %#lx rbx %#lx rcx %#lx rdx %#lx rsi %#lx rdi %#lx\n"
	    "r8 %#lx r9 %#lx r10 %#lx r11 %#lx r12 %#lx r13 %#lx r14 %#lx r15 %#lx dr6 %#lx dr7 %#lx",
	    frame->vector, frame->error, curcpu(), curthread() != NULL ? curthread()->td_name : "-",
	    frame->rip, frame->rsp, frame->rbp, frame->rflags, rcr2(),
	    frame->rax, frame->rbx, frame->rcx, frame->rdx, frame->rsi, frame->rdi,
	    frame->r8, frame->r9, frame->r10, frame->r11, frame->r12, frame->r13, frame->r14, frame->r15, rdr6(), rdr7());
}
