/* Records of processor state: debug registers, control registers, descriptor tables, features. */
#include "runtime.h"

#define MSR_EFER 0xC0000080

#define READ_CR(n) ({ uint64_t v_; __asm__ volatile("movq %%cr" #n ", %0" : "=r"(v_)); v_; })
#define WRITE_CR(n, v) __asm__ volatile("movq %0, %%cr" #n : : "r"((uint64_t)(v)) : "memory")
#define READ_SELECTOR(r) ({ uint64_t v_ = 0; __asm__ volatile(r : "+r"(v_)); v_ & 0xFFFF; })

struct pointer {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

/* Fills in DR0-3, DR6, DR7 and CR4 as RECORD_SNAPSHOT and RECORD_RESET carry them. */
void
record_debug_registers(struct record *record)
{
	record->rip = READ_DR(0);
	record->value = READ_DR(1);
	record->site = READ_DR(2);
	record->next = READ_DR(3);
	record->dr6 = READ_DR(6);
	record->dr7 = READ_DR(7);
	record->aux = READ_CR(4);
}

/* RECORD_RESET from what a processor's first instructions left at `address`; real mode sees 32 bits of each. */
void
record_captured(struct context *ctx, uint64_t address)
{
	const volatile uint32_t *halves = (const volatile uint32_t *)address;
	struct record *record = record_new(ctx, RECORD_RESET);

	record->rip = halves[0];
	record->value = halves[2];
	record->site = halves[4];
	record->next = halves[6];
	record->dr6 = halves[8];
	record->dr7 = halves[10];
	record->aux = halves[12];
	record->error = halves[14];
}

void
record_features(struct context *ctx)
{
	struct record *record = record_new(ctx, RECORD_FEATURES);
	uint32_t regs[4];

	cpuid(7, 0, regs);
	record->value = (uint64_t)regs[2] << 32 | regs[1];
	cpuid(0x80000001, 0, regs);
	record->aux = (uint64_t)regs[3] << 32 | regs[2];
	cpuid(1, 0, regs);
	record->dr6 = (uint64_t)regs[3] << 32 | regs[2];
	record->site = (uint64_t)isr_table;
	record->next = (uint64_t)syscall_entry;
}

void
record_control(struct context *ctx)
{
	struct record *record = record_new(ctx, RECORD_CONTROL);

	record->rip = READ_CR(0);
	record->value = READ_CR(2);
	record->site = READ_CR(3);
	record->next = READ_CR(4);
	record->aux = READ_CR(8);
	record->dr6 = rdmsr(MSR_EFER);
}

void
record_tables(struct context *ctx)
{
	struct record *record = record_new(ctx, RECORD_TABLES);
	struct pointer gdtr, idtr;

	__asm__ volatile("sgdt %0" : "=m"(gdtr));
	__asm__ volatile("sidt %0" : "=m"(idtr));
	record->rip = gdtr.base;
	record->value = idtr.base;
	record->site = (uint64_t)gdtr.limit | (uint64_t)idtr.limit << 16 | READ_SELECTOR("str %0") << 32 |
	    READ_SELECTOR("sldt %0") << 48;
	record->next = READ_SELECTOR("movq %%cs, %0") | READ_SELECTOR("movq %%ds, %0") << 16 |
	    READ_SELECTOR("movq %%es, %0") << 32 | READ_SELECTOR("movq %%ss, %0") << 48;
	record->aux = READ_SELECTOR("movq %%fs, %0") | READ_SELECTOR("movq %%gs, %0") << 16;
}

/* OP_COUNTED. */
void
record_counted(struct context *ctx)
{
	struct record *record = record_new(ctx, RECORD_COUNTED);

	record->value = ctx->counted;
	record->rip = ctx->counted_rip;
	record->dr6 = ctx->dr6_any;
	record->aux = ctx->dr6_all;
	ctx->counted = ctx->counted_rip = ctx->dr6_any = ctx->dr6_all = 0;
}

static uint64_t
read_dr(unsigned n)
{
	switch (n) {
	case 0:
		return (READ_DR(0));
	case 1:
		return (READ_DR(1));
	case 2:
		return (READ_DR(2));
	case 3:
		return (READ_DR(3));
	case 6:
		return (READ_DR(6));
	default:
		return (READ_DR(7));
	}
}

/* OP_EXPECT_DR: silent as long as all is well, so that a loop may look at a register as often as it likes. */
void
expect_dr(struct context *ctx, unsigned n, uint64_t expected, uint64_t mask)
{
	uint64_t value = read_dr(n);
	struct record *record;

	if (((value ^ expected) & mask) == 0)
		return;
	record = record_new(ctx, RECORD_MISMATCH);
	record->vector = (uint8_t)n;
	record->value = value;
	record->aux = expected;
}

/* OP_SET_CR: replaces the bits of `mask`. */
void
set_control(unsigned number, uint64_t mask, uint64_t bits)
{
	switch (number) {
	case 0:
		WRITE_CR(0, (READ_CR(0) & ~mask) | bits);
		break;
	case 3:
		WRITE_CR(3, (READ_CR(3) & ~mask) | bits);
		break;
	case 4:
		WRITE_CR(4, (READ_CR(4) & ~mask) | bits);
		break;
	}
}
