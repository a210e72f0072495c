/* The two processors: start, tables, local APIC, messages from one to the other. */
#include "cpufunc.h"
#include "kern.h"

#define APIC		0xfee00000ul
#define APIC_ID		(APIC + 0x20)
#define APIC_EOI	(APIC + 0xb0)
#define APIC_SVR	(APIC + 0xf0)
#define APIC_ICR_LOW	(APIC + 0x300)
#define APIC_ICR_HIGH	(APIC + 0x310)
#define APIC_LVT_TIMER	(APIC + 0x320)
#define APIC_INITIAL	(APIC + 0x380)
#define APIC_DIVIDE	(APIC + 0x3e0)
#define ICR_INIT	0x4500
#define ICR_STARTUP	0x4600
#define ICR_NMI		0x4400
#define ICR_PENDING	0x1000

#define AP_START	0x8000ul
/* Bochs' local APIC counts emulated instructions, as its time stamp counter does. */
#define TICK		20000

struct pcpu pcpus[MAXCPU];
extern char ap_trampoline[], ap_trampoline_end[];
void ap_main(void);
void tick(void);

static volatile uint32_t cpus_up;
static struct {
	void (*volatile function)(void *);
	void *volatile arg;
	volatile uint32_t pending;
} rendezvous;

void
apic_eoi(void)
{
	mmio_write32(APIC_EOI, 0);
}

void
apic_timer_start(uint32_t ticks)
{
	mmio_write32(APIC_SVR, 0x1ff);
	mmio_write32(APIC_DIVIDE, 0xb);
	mmio_write32(APIC_LVT_TIMER, 0x20000 | 0x20);
	mmio_write32(APIC_INITIAL, ticks * TICK);
}

static void
ipi(uint32_t apicid, uint32_t what)
{
	uint64_t rflags = read_rflags();

	disable_intr();
	mmio_write32(APIC_ICR_HIGH, apicid << 24);
	mmio_write32(APIC_ICR_LOW, what);
	while ((mmio_read32(APIC_ICR_LOW) & ICR_PENDING) != 0)
		cpu_pause();
	write_rflags(rflags);
}

void
cpu_stop(void)
{
	for (;;)
		__asm__ __volatile__("cli; hlt");
}

void
cpu_kick(int cpu)
{
	if (cpu != curcpu())
		ipi(pcpus[cpu].pc_apicid, ICR_NMI);
}

static void
run_rendezvous(void)
{
	uint32_t me = 1u << curcpu();

	if ((__atomic_load_n(&rendezvous.pending, __ATOMIC_ACQUIRE) & me) != 0) {
		rendezvous.function(rendezvous.arg);
		__atomic_and_fetch(&rendezvous.pending, ~me, __ATOMIC_RELEASE);
	}
}

/* The timer interrupt: the guest's time is up. */
void
tick(void)
{
	struct pcpu *pc = curpcpu();

	pc->pc_ticks++;
	pc->pc_ast = 1;
	apic_eoi();
	run_rendezvous();
}

/* Run a function on all CPUs, and return when all have. Not from an interrupt handler. */
void
smp_rendezvous(void (*function)(void *), void *arg)
{
	rendezvous.function = function;
	rendezvous.arg = arg;
	__atomic_store_n(&rendezvous.pending, ((1u << cpus_up) - 1) & ~(1u << curcpu()), __ATOMIC_RELEASE);
	function(arg);
	while (__atomic_load_n(&rendezvous.pending, __ATOMIC_ACQUIRE) != 0)
		cpu_pause();
}

static void
set_tss_descriptor(struct pcpu *pc)
{
	uint64_t base = (uint64_t)(uintptr_t)&pc->pc_tss;

	pc->pc_gdt[GSEL_TSS / 8] = (sizeof(pc->pc_tss) - 1) | (base & 0xffffff) << 16 | 0x89ul << 40 | (base >> 24 & 0xff) << 56;
	pc->pc_gdt[GSEL_TSS / 8 + 1] = base >> 32;
}

/* TR of the host: the descriptor is made available again, as LTR refuses a busy one. */
void
restore_host_tss(void)
{
	set_tss_descriptor(curpcpu());
	ltr(GSEL_TSS);
}

void
cpu_setup(int cpu)
{
	struct pcpu *pc = &pcpus[cpu];
	struct region_descriptor gdtr = { sizeof(pc->pc_gdt) - 1, (uint64_t)(uintptr_t)pc->pc_gdt };

	pc->pc_gdt[1] = 0x00af9b000000ffff;
	pc->pc_gdt[2] = 0x00cf93000000ffff;
	__asm__ __volatile__("lgdt %0" : : "m"(gdtr));
	__asm__ __volatile__(
	    "pushq $0x08; leaq 1f(%%rip), %%rax; pushq %%rax; lretq; 1:"
	    "movw $0x10, %%ax; movw %%ax, %%ds; movw %%ax, %%es; movw %%ax, %%ss; xorl %%eax, %%eax;"
	    "movw %%ax, %%fs; movw %%ax, %%gs" : : : "rax", "memory");
	wrmsr(MSR_GSBASE, (uint64_t)(uintptr_t)pc);
	wrmsr(MSR_FSBASE, 0);
	pc->pc_prvspace = pc;
	pc->pc_magic = PCPU_MAGIC;
	pc->pc_cpuid = cpu;
	pc->pc_apicid = mmio_read32(APIC_ID) >> 24;
	for (int ist = 1; ist <= 7; ist++)
		pc->pc_tss.ist[ist - 1] = (uint64_t)(uintptr_t)pc->pc_ist[ist - 1] + IST_STACK_SIZE;
	pc->pc_tss.iobase = sizeof(pc->pc_tss);
	restore_host_tss();
	idt_load();
	load_dr6(DR6_RESET_VALUE);
	load_dr7(DR7_RESET_VALUE);
}

void
ap_main(void)
{
	cpu_setup(1);
	__atomic_add_fetch(&cpus_up, 1, __ATOMIC_SEQ_CST);
	sched_idle();
}

void
smp_start(void)
{
	cpus_up = 1;
	memcpy((void *)AP_START, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
	mmio_write32(APIC_SVR, 0x1ff);
	mmio_write32(APIC_ICR_LOW, 0x000c0000 | ICR_INIT);	/* all but this one */
	for (volatile int n = 0; n < 20000; n++)
		;
	mmio_write32(APIC_ICR_LOW, 0x000c0000 | ICR_STARTUP | (uint32_t)(AP_START >> 12));
	for (volatile int n = 0; n < 2000000 && cpus_up < 2; n++)
		;
	if (cpus_up < 2)
		panic("the second processor does not start");
}
