/*
 * Per-CPU data behind %gs. The magic tells a fault handler or a probe that GS.base is the host's.
 */
#ifndef PCPU_H
#define PCPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct thread;

/* CPUs the kernel is built for. */
#define MAXCPU		2

#define PCPU_MAGIC	0x55504350454d4d56ull	/* "VMMEPCPU" */
#define IST_STACK_SIZE	4096

/* Selectors of the host's GDT. The TSS descriptor takes two entries. */
#define GSEL_CODE	0x08
#define GSEL_DATA	0x10
#define GSEL_TSS	0x20
#define GSEL_ENTRIES	6

/* IST slots, numbered as FreeBSD does. */
enum { IST_DF = 1, IST_NMI = 2, IST_MC = 3, IST_DB = 4 };

struct tss {
	uint32_t reserved0;
	uint64_t rsp[3];
	uint64_t reserved1;
	uint64_t ist[7];
	uint64_t reserved2;
	uint16_t reserved3;
	uint16_t iobase;
} __attribute__((packed));

struct pcpu {
	struct pcpu	*pc_prvspace;	/* offset 0: this structure itself */
	uint64_t	pc_magic;	/* offset 8 */
	struct thread	*pc_curthread;	/* offset 16 */
	int		pc_cpuid;	/* offset 24 */
	uint32_t	pc_apicid;	/* offset 28 */
	volatile uint64_t pc_steps;	/* offset 32: traps of stepping the host through VM entry */
	volatile bool	pc_step;	/* offset 40: it is wanted */
	struct thread	*pc_idlethread;
	volatile uint32_t pc_ast;	/* something else wants to run here: leave the guest */
	volatile bool	pc_in_guest;	/* inside vmm_ops.run() since pc_guest_since (TSC) */
	volatile uint64_t pc_guest_since;
	uint64_t	pc_ticks;	/* timer interrupts taken */
	uint64_t	pc_nmis;
	/* Host witnesses (kern/witness.c): what #DB handlers counted on this CPU. */
	volatile uint64_t pc_tf_lost;
	volatile uint64_t pc_entries;
	volatile uint64_t pc_hits;
	volatile uint64_t pc_foreign;
	/*
	 * IA32_DEBUGCTL of this CPU, a model: Bochs has no such register. It is switched around VM entries like the others,
	 * and is what cpucontrol and the witness read and write. Nothing in the guest depends on it.
	 */
	uint64_t	pc_debugctl;
	uint64_t	pc_gdt[GSEL_ENTRIES];
	struct tss	pc_tss;
	_Alignas(16) uint8_t pc_ist[7][IST_STACK_SIZE];
};

extern struct pcpu pcpus[MAXCPU];

static inline struct pcpu *
curpcpu(void)
{
	struct pcpu *pc;

	__asm__ __volatile__("movq %%gs:0, %0" : "=r"(pc));
	return (pc);
}

static inline int
curcpu(void)
{
	uint32_t cpu;

	__asm__ __volatile__("movl %%gs:24, %0" : "=r"(cpu));
	return ((int)cpu);
}

static inline struct thread *
curthread(void)
{
	struct thread *td;

	__asm__ __volatile__("movq %%gs:16, %0" : "=r"(td));
	return (td);
}

/* After #VMEXIT of SVM: TR still holds the guest's. Makes the TSS available again and loads it (kern/cpu.c). */
void	restore_host_tss(void);

/* The bases VMX puts into the host state area. */
static inline uint64_t
host_tss_base(void)
{
	return ((uint64_t)(uintptr_t)&curpcpu()->pc_tss);
}

static inline uint64_t
host_gdt_base(void)
{
	return ((uint64_t)(uintptr_t)curpcpu()->pc_gdt);
}

uint64_t host_idt_base(void);

_Static_assert(__builtin_offsetof(struct pcpu, pc_curthread) == 16, "%gs:16 is curthread");
_Static_assert(__builtin_offsetof(struct pcpu, pc_cpuid) == 24, "%gs:24 is curcpu");
_Static_assert(__builtin_offsetof(struct pcpu, pc_steps) == 32, "kern/debugtrap.S");
_Static_assert(__builtin_offsetof(struct pcpu, pc_step) == 40, "kern/debugtrap.S");

#endif
