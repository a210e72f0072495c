/*
 * All vectors end here. An exception is recorded, never "handled": the record says what the processor reported,
 * the host judges. The handler then lets the program go on at a place that depends on nothing but the vector.
 */
#include "runtime.h"

struct context contexts[2] = { { .cpu = 0, .first_touch = FIRST_TOUCH },
    { .cpu = 1, .first_touch = (FIRST_TOUCH + FIRST_TOUCH_END) / 2 } };

/* Each processor has its own GDT, and reading its base causes no exit. */
struct context *
current(void)
{
	struct { uint16_t limit; uint64_t base; } __attribute__((packed)) gdtr;
	static uint64_t first_gdt;

	__asm__ volatile("sgdt %0" : "=m"(gdtr));
	if (first_gdt == 0)
		first_gdt = gdtr.base;
	return (&contexts[gdtr.base == first_gdt ? 0 : 1]);
}

static uint64_t
read_value(const struct context *ctx)
{
	switch (ctx->value_size) {
	case 1:
		return (*(volatile uint8_t *)ctx->value_at);
	case 2:
		return (*(volatile uint16_t *)ctx->value_at);
	case 4:
		return (*(volatile uint32_t *)ctx->value_at);
	case 8:
		return (*(volatile uint64_t *)ctx->value_at);
	default:
		return (0);
	}
}

static uint8_t
mode_of(const struct frame *frame)
{
	switch (frame->cs & 0xFFFF) {
	case 0x23:
		return (MODE_COMPAT);
	case 0x2B:
		return (MODE_USER64);
	default:
		return (MODE_LONG);
	}
}

/* An enabled instruction breakpoint is among the reported ones: the instruction has not run yet. */
static int
is_instruction_breakpoint(uint64_t dr6, uint64_t dr7)
{
	for (unsigned n = 0; n < 4; n++)
		if ((dr6 >> n & 1) && (dr7 >> (2 * n) & 3) && (dr7 >> (16 + 4 * n) & 3) == 0)
			return (1);
	return (0);
}

static void
resume_debug(struct context *ctx, struct frame *frame, uint64_t dr6, uint64_t dr7)
{
	if (ctx->handler_flags & HANDLER_CLEAR_TF)
		frame->rflags &= ~RFLAGS_TF;
	if (dr6 & DR6_BD) {
		if (!(ctx->handler_flags & HANDLER_RETRY_GD) && frame->rip == ctx->site)
			frame->rip = ctx->next;
	} else if (is_instruction_breakpoint(dr6, dr7) && !(ctx->handler_flags & HANDLER_NO_RF)) {
		frame->rflags |= RFLAGS_RF;
	}
}

static void
record_exception(struct context *ctx, struct frame *frame)
{
	uint8_t flags = ctx->handler_flags;
	uint64_t dr6, dr7;
	struct record *record;

	if (flags & HANDLER_EXIT_BEFORE)
		force_exits(ctx, ctx->handler_exit, 1);
	dr6 = READ_DR(6);
	dr7 = READ_DR(7);
	/* Breakpoints off: reading the watched value below must not be an event of its own. */
	WRITE_DR(7, DR7_INACTIVE);
	if (flags & HANDLER_EXIT_AFTER)
		force_exits(ctx, ctx->handler_exit, 1);
	record = record_new(ctx, RECORD_EXCEPTION);
	record->vector = (uint8_t)frame->vector;
	record->rip = frame->rip;
	record->rflags = (uint32_t)frame->rflags;
	record->error = (uint32_t)frame->error;
	record->cs = (uint16_t)frame->cs;
	record->mode = mode_of(frame);
	record->dr6 = dr6;
	record->dr7 = dr7;
	record->value = read_value(ctx);
	record->aux = frame->rax;
	if (frame->vector == VECTOR_PF)
		__asm__ volatile("movq %%cr2, %0" : "=r"(record->aux));
	if (frame->vector == VECTOR_DB)
		resume_debug(ctx, frame, dr6, dr7);
	else if (frame->vector != VECTOR_BP && frame->rip == ctx->site)
		frame->rip = ctx->next;         /* a fault at the instruction under test: skip it */
	/* The processor sets bits and never clears them; a stale bit would speak for the next event. */
	if (!(flags & HANDLER_KEEP_DR6) && frame->vector == VECTOR_DB)
		WRITE_DR(6, DR6_INACTIVE);
	WRITE_DR(7, (flags & HANDLER_DISARM) ? DR7_INACTIVE : dr7);
}

/* A fault nobody expects would be taken for ever: after this many records the program is over. */
#define MANY 3000

void handle_vector(struct frame *frame);

void
handle_vector(struct frame *frame)
{
	struct context *ctx = current();

	if (frame->vector == VECTOR_TIMER) {
		ctx->ticks++;
		mmio_write(0xFEE000B0, 0);
		return;
	}
	if (frame->vector == VECTOR_SPURIOUS)
		return;
	if (frame->vector == VECTOR_LEAVE)
		leave_user(frame->rax);
	record_exception(ctx, frame);
	if (frame->vector != VECTOR_DB && frame->vector != VECTOR_BP && frame->rip != ctx->next) {
		/* Neither a debug event nor a fault of the instruction under test: nothing sane can follow. */
		const struct payload_header *header = (const void *)ROM_BASE;

		send_records(header->nonce);
		end_of_run(header->end_method);
	}
}
