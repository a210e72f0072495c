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

#define ISR_STRIDE 16
#define GATE_INTERRUPT 0x8E
#define DPL3 0x60

static struct gate idt[256];
static uint64_t gdt[2][10];
static struct tss tss[2];

static void
set_gates(void)
{
	for (unsigned vector = 0; vector < 256; vector++) {
		uint64_t entry = (uint64_t)isr_table + vector * ISR_STRIDE;

		idt[vector] = (struct gate){
			.offset_low = (uint16_t)entry,
			.selector = 0x18,
			/* A double fault may come with a bad stack. */
			.ist = vector == 8 ? 1 : 0,
			/* INT3 and the way back from CPL 3 are open to CPL 3, as operating systems do it. */
			.type = GATE_INTERRUPT | ((vector == VECTOR_BP || vector == VECTOR_LEAVE) ? DPL3 : 0),
			.offset_middle = (uint16_t)(entry >> 16),
			.offset_high = (uint32_t)(entry >> 32),
		};
	}
}

/* Loads GDT, IDT and TR of processor `cpu` (0 or 1) and reloads the segment registers. */
void
load_tables(unsigned cpu)
{
	struct pointer pointer;
	uint64_t base = (uint64_t)&tss[cpu];
	uint64_t stacks = STACKS + (uint64_t)(4 + cpu * 2) * STACK_SIZE;

	if (cpu == 0)
		set_gates();
	/* 0x08 code 32, 0x10 data, 0x18 code 64, 0x23 code 32 user, 0x2B code 64 user, 0x33 data user, 0x38 TSS */
	gdt[cpu][0] = 0;
	gdt[cpu][1] = 0x00CF9B000000FFFF;
	gdt[cpu][2] = 0x00CF93000000FFFF;
	gdt[cpu][3] = 0x00AF9B000000FFFF;
	gdt[cpu][4] = 0x00CFFB000000FFFF;
	gdt[cpu][5] = 0x00AFFB000000FFFF;
	gdt[cpu][6] = 0x00CFF3000000FFFF;
	gdt[cpu][7] = (sizeof(struct tss) - 1) | (base & 0xFFFFFF) << 16 | 0x89UL << 40 | (base >> 24 & 0xFF) << 56;
	gdt[cpu][8] = base >> 32;
	tss[cpu].rsp[0] = stacks + STACK_SIZE;
	tss[cpu].ist[0] = stacks + 2 * STACK_SIZE;
	tss[cpu].iomap = sizeof(struct tss);
	pointer = (struct pointer){ sizeof(gdt[cpu]) - 1, (uint64_t)gdt[cpu] };
	__asm__ volatile("lgdt %0" : : "m"(pointer));
	pointer = (struct pointer){ sizeof(idt) - 1, (uint64_t)idt };
	__asm__ volatile("lidt %0" : : "m"(pointer));
	__asm__ volatile(
	    "movw $0x10, %%ax; movw %%ax, %%ds; movw %%ax, %%es; movw %%ax, %%ss; movw %%ax, %%fs; movw %%ax, %%gs;"
	    "movw $0x38, %%ax; ltr %%ax" : : : "rax", "memory");
}
