/* The boot processor's way through a run. */
#include "runtime.h"

void main(void);

static void
record_reset_state(struct context *ctx)
{
	const volatile uint64_t *state = (const volatile uint64_t *)RESET_STATE;
	const volatile uint32_t *halves = (const volatile uint32_t *)RESET_STATE;
	struct record *record = record_new(ctx, RECORD_RESET);

	(void)state;
	/* Real mode reads 32 bits; the upper halves cannot be seen there. */
	record->rip = halves[0];
	record->value = halves[2];
	record->site = halves[4];
	record->next = halves[6];
	record->dr6 = halves[8];
	record->dr7 = halves[10];
	record->aux = halves[12];
	record->error = halves[14];
}

static void
record_features(struct context *ctx)
{
	struct record *record = record_new(ctx, RECORD_FEATURES);
	uint32_t regs[4];

	cpuid(7, 0, regs);
	record->value = (uint64_t)regs[2] << 32 | regs[1];
	cpuid(0x80000001, 0, regs);
	record->aux = (uint64_t)regs[3] << 32 | regs[2];
}

void
main(void)
{
	const struct payload_header *header = (const struct payload_header *)ROM_BASE;
	struct context *ctx;

	load_tables(0);
	/*
	 * The stacks that an exception from CPL 3 arrives on are touched now: a nested page fault in the middle of the
	 * delivery of an exception is a case of its own, not something that any case may meet by chance.
	 */
	for (uint64_t stack = 4; stack < 8; stack++)
		*(volatile uint8_t *)(STACKS + (stack + 1) * STACK_SIZE - 64) = 0;
	ctx = current();
	uart_init();
	send_banner(header->nonce);
	record_reset_state(ctx);
	record_features(ctx);
	apic_init();
	__asm__ volatile("sti");
	if (header->magic == PAYLOAD_MAGIC && header->version == PAYLOAD_VERSION &&
	    header->crc32 == crc32(0, header + 1, (size_t)header->op_count * sizeof(struct op)))
		run_ops(ctx, header, 0);
	else
		record_new(ctx, RECORD_OVERFLOW);
	WRITE_DR(7, DR7_INACTIVE);
	send_records(header->nonce);
	end_of_run(header->end_method);
}
