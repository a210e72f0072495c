/* The boot processor's way through a run. */
#include "runtime.h"

void main(void);

void
main(void)
{
	const struct payload_header *header = (const struct payload_header *)ROM_BASE;
	struct context *ctx = &contexts[0];

	load_tables(0);
	touch_stacks(0);
	offer_records(header->end_method & END_KEEP_RECORDS);
	uart_init();
	send_banner(header->nonce);
	record_captured(ctx, RESET_STATE);
	record_features(ctx);
	apic_init();
	__asm__ volatile("sti");
	if (header->magic == PAYLOAD_MAGIC && header->version == PAYLOAD_VERSION &&
	    header->crc32 == crc32(0, header + 1, (size_t)header->op_count * sizeof(struct op)))
		run_ops(ctx, header, 0);
	else
		record_new(ctx, RECORD_OVERFLOW);
	end_of_run(ctx, header);
}
