/* Descriptor tables: all in RAM, because the processor writes accessed and busy bits into them. */
#include "runtime.h"

struct gate {
	uint16_t offset_low, selector;
	uint8_t ist, type;
	uint16_t offset_middle;
	uint32_t offset_high, reserved;
};

struct tss {
	uint32_t reserved0;
	uint64_t rsp[3];
	uint64_t reserved1;
	uint64_t ist[7];
	uint64_t reserved2;
	uint16_t reserved3, iomap;
} __attribute__((packed));

struct pointer {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

#define ISR_STRIDE      16
#define GATE_INTERRUPT  0x8E
#define DPL3            0x60
#define GDT_ENTRIES     (SELECTOR_TSS64 / 8 + 2 * MAX_CPUS)
#define TSS_AVAILABLE   0x89UL

struct context contexts[MAX_CPUS];
uint64_t gdt[GDT_ENTRIES];
static struct gate idt[256];
static struct tss tss[MAX_CPUS];

/* The task register tells processors apart, and reading it causes no exit; a host may change GDTR. */
struct context *
current(void)
{
	uint16_t selector;

	__asm__ volatile("str %0" : "=r"(selector));
	return (&contexts[(selector - SELECTOR_TSS64) / 16 % MAX_CPUS]);
}

static void
set_gate(struct gate *gate, unsigned vector, const char *handler)
{
	uint64_t entry = (uint64_t)handler;
	/* INT3 and the way back from CPL 3 are open to CPL 3, as operating systems do it. */
	int open = vector == VECTOR_BP || vector == VECTOR_LEAVE || vector == VECTOR_FRAME;

	*gate = (struct gate){
		.offset_low = (uint16_t)entry,
		.selector = SELECTOR_CODE64,
		/* A double fault may come with a bad stack. */
		.ist = vector == 8 ? 1 : 0,
		.type = GATE_INTERRUPT | (open ? DPL3 : 0),
		.offset_middle = (uint16_t)(entry >> 16),
		.offset_high = (uint32_t)(entry >> 32),
	};
}

static void
set_gates(void)
{
	struct gate *second = (struct gate *)IDT_SECOND;

	for (unsigned vector = 0; vector < 256; vector++) {
		set_gate(&idt[vector], vector, isr_table + vector * ISR_STRIDE);
		second[vector] = idt[vector];
	}
	set_gate(&idt[VECTOR_FRAME], VECTOR_FRAME, frame_handler);
	second[VECTOR_FRAME] = idt[VECTOR_FRAME];
	set_gate(&second[VECTOR_BP], VECTOR_BP, isr_table + VECTOR_SECOND * ISR_STRIDE);
}

static void
set_tss(unsigned cpu)
{
	uint64_t base = (uint64_t)&tss[cpu], stacks = STACKS + (uint64_t)cpu * CPU_STACKS;
	uint64_t *descriptor = &gdt[SELECTOR_TSS64 / 8 + 2 * cpu];

	tss[cpu].rsp[0] = stacks + 3 * STACK_SIZE;
	tss[cpu].ist[0] = stacks + 4 * STACK_SIZE;
	tss[cpu].iomap = sizeof(struct tss);
	descriptor[0] = (sizeof(struct tss) - 1) | (base & 0xFFFFFF) << 16 | TSS_AVAILABLE << 40 |
	    (base >> 24 & 0xFF) << 56;
	descriptor[1] = base >> 32;
}

static void
set_descriptors(void)
{
	uint64_t *second = (uint64_t *)GDT_SECOND;

	/* Accessed bits are set: nobody has to write them later. */
	gdt[SELECTOR_CODE32 / 8] = 0x00CF9B000000FFFF;
	gdt[SELECTOR_DATA / 8] = 0x00CF93000000FFFF;
	gdt[SELECTOR_CODE64 / 8] = 0x00AF9B000000FFFF;
	gdt[SELECTOR_USER32 / 8] = 0x00CFFB000000FFFF;
	gdt[SELECTOR_USER_DATA / 8] = 0x00CFF3000000FFFF;
	gdt[SELECTOR_USER64 / 8] = 0x00AFFB000000FFFF;
	gdt[SELECTOR_CODE16 / 8] = 0x00009B000000FFFF | (uint64_t)LOW_CODE << 16;
	gdt[SELECTOR_BASED / 8] = 0x00CF93000000FFFF;
	gdt[SELECTOR_USER16 / 8] = 0x0000FB000000FFFF | (uint64_t)LOW_CODE << 16;
	gdt[SELECTOR_USER_BASED / 8] = 0x00CFF3000000FFFF;
	gdt[SELECTOR_DATA64K / 8] = 0x000093000000FFFF;
	gdt[SELECTOR_SYSCALL / 8] = gdt[SELECTOR_CODE64 / 8];
	gdt[SELECTOR_SYSCALL / 8 + 1] = gdt[SELECTOR_DATA / 8];
	gdt[SELECTOR_SYSEXIT64 / 8] = gdt[SELECTOR_USER64 / 8];
	gdt[SELECTOR_SYSEXIT64 / 8 + 1] = gdt[SELECTOR_USER_DATA / 8];
	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++) {
		contexts[cpu].cpu = (uint8_t)cpu;
		contexts[cpu].first_touch = FIRST_TOUCH + (uint64_t)cpu * FIRST_TOUCH_SHARE;
		set_tss(cpu);
	}
	for (unsigned n = 0; n < GDT_ENTRIES; n++)
		second[n] = gdt[n];
	second[SELECTOR_DATA64K / 8] = 0x0000930000000FFF;
	/* Its owner's TSS is in use. */
	second[SELECTOR_TSS64 / 8] |= 2UL << 40;
}

/* Gives a data segment of a legacy or compatibility mode its base. */
void
set_data_base(unsigned selector, uint32_t base)
{
	uint64_t clear = gdt[selector / 8] & ~(0xFFFFFFUL << 16 | 0xFFUL << 56);

	gdt[selector / 8] = clear | (uint64_t)(base & 0xFFFFFF) << 16 | (uint64_t)(base >> 24) << 56;
}

/* OP_USE_TABLES: 0 the runtime's own, 1 the second IDT, 2 the second GDT. */
void
use_tables(unsigned which)
{
	struct pointer pointer;

	if (which != 1) {
		pointer = (struct pointer){ sizeof(gdt) - 1, which == 0 ? (uint64_t)gdt : GDT_SECOND };
		__asm__ volatile("lgdt %0" : : "m"(pointer));
	}
	if (which != 2) {
		pointer = (struct pointer){ sizeof(idt) - 1, which == 0 ? (uint64_t)idt : IDT_SECOND };
		__asm__ volatile("lidt %0" : : "m"(pointer));
	}
}

/* Loads GDT, IDT and TR of a processor and reloads the segment registers. */
void
load_tables(unsigned cpu)
{
	if (cpu == 0) {
		set_gates();
		set_descriptors();
	} else {
		/* A former life of this processor left its TSS busy. */
		set_tss(cpu);
	}
	use_tables(0);
	__asm__ volatile(
	    "movw %w0, %%ds; movw %w0, %%es; movw %w0, %%ss; movw %w0, %%fs; movw %w0, %%gs; ltr %w1"
	    : : "r"(SELECTOR_DATA), "r"(SELECTOR_TSS64 + 16 * cpu) : "memory");
}

/*
 * A nested page fault in the middle of the delivery of an exception is a case of its own, not something that any case
 * may meet by chance: the pages that frames go to are touched first.
 */
void
touch_stacks(unsigned cpu)
{
	for (uint64_t stack = 0; stack < CPU_STACKS / STACK_SIZE; stack++)
		*(volatile uint8_t *)(STACKS + cpu * CPU_STACKS + (stack + 1) * STACK_SIZE - 64) = 0;
}
