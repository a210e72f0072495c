/*
 * All vectors end here. An exception is recorded, never "handled": the record says what the processor reported,
 * the host judges. The handler then lets the program go on at a place that depends on nothing but the vector.
 */
#include "runtime.h"

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
	case SELECTOR_USER32:
		return (MODE_COMPAT);
	case SELECTOR_USER64:
	case SELECTOR_SYSEXIT64:
		return (MODE_USER64);
	case SELECTOR_USER16:
		return (MODE_COMPAT16);
	default:
		return (MODE_LONG);
	}
}

/* An enabled instruction breakpoint is among the reported ones: the instruction has not run yet. */
int
is_instruction_breakpoint(uint64_t dr6, uint64_t dr7)
{
	for (unsigned n = 0; n < 4; n++)
		if ((dr6 >> n & 1) && (dr7 >> (2 * n) & 3) && (dr7 >> (16 + 4 * n) & 3) == 0)
			return (1);
	return (0);
}

static void
resume_debug(const struct context *ctx, struct frame *frame, uint64_t rip, uint64_t dr6, uint64_t dr7)
{
	if (ctx->handler_flags & HANDLER_CLEAR_TF)
		frame->rflags &= ~RFLAGS_TF;
	if (dr6 & DR6_BD) {
		if (!(ctx->handler_flags & HANDLER_RETRY_GD) && rip == ctx->site)
			frame->rip += ctx->next - ctx->site;
	} else if (is_instruction_breakpoint(dr6, dr7) && !(ctx->handler_flags & HANDLER_NO_RF)) {
		frame->rflags |= RFLAGS_RF;
	}
}

/* Lets the interrupted code go on; returns 0 when it cannot. */
static int
resume_fault(const struct context *ctx, struct frame *frame, uint64_t rip, uint64_t address)
{
	if (frame->vector == VECTOR_BP || frame->vector == VECTOR_SECOND || frame->vector == VECTOR_NMI)
		return (1);
	if (frame->vector == VECTOR_PF && (ctx->handler_flags & HANDLER_REPAIR)) {
		repair_page(address);
		return (1);
	}
	if (rip != ctx->site || rip == ctx->next)
		return (0);
	frame->rip += ctx->next - ctx->site;
	return (1);
}

static void
fill_record(struct context *ctx, const struct frame *frame, uint64_t rip, uint64_t dr6, uint64_t dr7, uint64_t address)
{
	struct record *record = record_new(ctx, RECORD_EXCEPTION);

	record->vector = (uint8_t)frame->vector;
	record->rip = rip;
	record->rflags = (uint32_t)frame->rflags;
	record->error = (uint32_t)frame->error;
	record->cs = (uint16_t)frame->cs;
	record->mode = mode_of(frame);
	record->dr6 = dr6;
	record->dr7 = dr7;
	record->value = read_value(ctx);
	record->aux = (ctx->handler_flags & HANDLER_RCX) ? frame->rcx : frame->rax;
	if (frame->vector == VECTOR_PF)
		record->aux = address;
}

static void
count(struct context *ctx, uint64_t rip, uint64_t dr6)
{
	ctx->dr6_all = ctx->counted == 0 ? dr6 : ctx->dr6_all & dr6;
	ctx->dr6_any |= dr6;
	ctx->counted_rip = rip;
	ctx->counted++;
}

/* Records (or counts) what the processor reported; the return value is that of resume_fault. */
static int
take(struct context *ctx, struct frame *frame)
{
	uint32_t flags = ctx->handler_flags;
	uint64_t dr6, dr7, rip = frame->rip, address = 0;
	int sane = 1;

	if (flags & HANDLER_EXIT_BEFORE)
		force_exits(ctx, ctx->handler_exit, 1);
	dr6 = READ_DR(6);
	dr7 = READ_DR(7);
	/* Breakpoints off: reading the watched value below must not be an event of its own. */
	WRITE_DR(7, DR7_INACTIVE);
	if (flags & HANDLER_EXIT_AFTER)
		force_exits(ctx, ctx->handler_exit, 1);
	if ((frame->cs & 0xFFFF) == SELECTOR_USER16)
		rip += LOW_CODE;
	if (frame->vector == VECTOR_PF)
		__asm__ volatile("movq %%cr2, %0" : "=r"(address));
	if (frame->vector == VECTOR_DB && (flags & HANDLER_COUNT))
		count(ctx, rip, dr6);
	else
		fill_record(ctx, frame, rip, dr6, dr7, address);
	if (frame->vector == VECTOR_DB) {
		resume_debug(ctx, frame, rip, dr6, dr7);
		/* The processor sets bits and never clears them; a stale bit would speak for the next event. */
		if (!(flags & HANDLER_KEEP_DR6))
			WRITE_DR(6, DR6_INACTIVE);
	} else {
		sane = resume_fault(ctx, frame, rip, address);
	}
	WRITE_DR(7, (flags & HANDLER_DISARM) ? DR7_INACTIVE : dr7);
	return (sane);
}

void handle_vector(struct frame *frame);

void
handle_vector(struct frame *frame)
{
	struct context *ctx = current();

	switch (frame->vector) {
	case VECTOR_TIMER:
		ctx->ticks++;
		if (ctx->single_tick)
			frame->rflags &= ~RFLAGS_IF;
		mmio_write(0xFEE000B0, 0);
		return;
	case VECTOR_SPURIOUS:
		return;
	case VECTOR_LEAVE:
		leave_snippet(frame->rax, ctx->snippet_stack);
	default:
		if (take(ctx, frame))
			return;
		/* Inside a snippet the rest of it is given up; anywhere else nothing sane can follow. */
		if (ctx->site != 0 && frame->vector != VECTOR_DF)
			leave_snippet(frame->rax, ctx->snippet_stack);
		end_of_run(ctx, (const struct payload_header *)ROM_BASE);
	}
}
