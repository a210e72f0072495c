/* Runs a program: one operation after the other, with counted loops. */
#include "runtime.h"

#define LOOP_DEPTH 4
#define MSR_LEAF_FEATURES 7

static volatile uint32_t ap_state;      /* 0 not started, 1 running, 2 done */
static uint32_t ap_first_op;

static void
set_snippet(struct context *ctx, uint32_t number)
{
	ctx->site = snippets_start[number].site;
	ctx->next = snippets_start[number].next;
}

static void
write_dr(struct context *ctx, unsigned n, uint64_t value)
{
	/* DR7 bit 13 makes the next access trap; it is the last thing a program does to a register then. */
	(void)ctx;
	switch (n) {
	case 0:
		WRITE_DR(0, value);
		break;
	case 1:
		WRITE_DR(1, value);
		break;
	case 2:
		WRITE_DR(2, value);
		break;
	case 3:
		WRITE_DR(3, value);
		break;
	case 6:
		WRITE_DR(6, value);
		break;
	case 7:
		WRITE_DR(7, value);
		break;
	}
}

static void
poke(unsigned size, uint64_t address, uint64_t value)
{
	switch (size) {
	case 1:
		*(volatile uint8_t *)address = (uint8_t)value;
		break;
	case 2:
		*(volatile uint16_t *)address = (uint16_t)value;
		break;
	case 4:
		*(volatile uint32_t *)address = (uint32_t)value;
		break;
	case 8:
		*(volatile uint64_t *)address = value;
		break;
	}
}

static uint64_t
peek(unsigned size, uint64_t address)
{
	switch (size) {
	case 1:
		return (*(volatile uint8_t *)address);
	case 2:
		return (*(volatile uint16_t *)address);
	case 4:
		return (*(volatile uint32_t *)address);
	default:
		return (*(volatile uint64_t *)address);
	}
}

static void
exec(struct context *ctx, const struct op *op, int user)
{
	const struct snippet *snippet = &snippets_start[op->c];
	uint64_t result;

	set_snippet(ctx, op->c);
	if (user)
		result = call_snippet_user(op->x, op->y, op->z, snippet->code,
		    STACKS + (uint64_t)(2 + ctx->cpu) * STACK_SIZE + STACK_SIZE);
	else
		result = call_snippet(op->x, op->y, op->z, snippet->code);
	if (op->a) {
		struct record *record = record_new(ctx, RECORD_RESULT);

		record->value = result;
	}
	ctx->site = ctx->next = 0;
}

static void
record_cpuid(struct context *ctx, uint32_t leaf, uint32_t subleaf)
{
	struct record *record;
	uint32_t regs[4];

	cpuid(leaf, subleaf, regs);
	record = record_new(ctx, RECORD_CPUID);
	record->value = (uint64_t)regs[1] << 32 | regs[0];
	record->aux = (uint64_t)regs[3] << 32 | regs[2];
}

static void
simple_op(struct context *ctx, const struct op *op, uint32_t nonce)
{
	struct record *record;
	uint64_t value, ticks;

	switch (op->opcode) {
	case OP_SET_DR:
		write_dr(ctx, op->a, op->x);
		break;
	case OP_SET_DR_SITE:
		write_dr(ctx, op->a, snippets_start[op->c].site + op->x);
		break;
	case OP_SNAPSHOT:
		record_debug_registers(record_new(ctx, RECORD_SNAPSHOT));
		break;
	case OP_EXEC:
		exec(ctx, op, 0);
		break;
	case OP_EXEC_USER:
		exec(ctx, op, 1);
		break;
	case OP_EXIT:
		ticks = ctx->ticks;
		force_exits(ctx, op->a, op->x);
		if (op->b) {
			record = record_new(ctx, RECORD_EXIT);
			record->value = op->x;
			record->aux = ctx->ticks - ticks;
		}
		break;
	case OP_POKE:
		poke(op->a, op->x, op->y);
		break;
	case OP_PEEK:
		value = peek(op->a, op->x);
		record = record_new(ctx, RECORD_VALUE);
		record->value = value;
		record->aux = op->x;
		break;
	case OP_VALUE_AT:
		ctx->value_at = op->x;
		ctx->value_size = op->a;
		break;
	case OP_SYNC:
		send_phase(nonce, (uint32_t)op->x);
		(void)uart_receive();
		break;
	case OP_SET_CR4:
		__asm__ volatile("movq %%cr4, %0" : "=r"(value));
		value = (value & ~op->x) | op->y;
		__asm__ volatile("movq %0, %%cr4" : : "r"(value));
		break;
	case OP_HANDLER:
		ctx->handler_flags = op->a;
		ctx->handler_exit = op->b;
		break;
	case OP_CPUID:
		record_cpuid(ctx, (uint32_t)op->x, (uint32_t)op->y);
		break;
	case OP_NOTE:
		record = record_new(ctx, RECORD_NOTE);
		record->value = op->x;
		break;
	}
}

/* Runs the operations from index `first` to the next OP_END. */
void
run_ops(struct context *ctx, const struct payload_header *header, uint32_t first)
{
	const struct op *ops = (const struct op *)(header + 1);
	struct { uint32_t start; uint64_t left; } loops[LOOP_DEPTH];
	unsigned depth = 0;

	for (uint32_t n = first; n < header->op_count && ops[n].opcode != OP_END; n++) {
		ctx->op = n;
		if (ops[n].opcode == OP_LOOP) {
			loops[depth].start = n;
			loops[depth++].left = ops[n].x;
			ctx->iteration = 0;
		} else if (ops[n].opcode == OP_END_LOOP) {
			ctx->iteration++;
			if (--loops[depth - 1].left != 0)
				n = loops[depth - 1].start;
			else
				depth--;
		} else {
			simple_op(ctx, &ops[n], header->nonce);
		}
	}
	(void)ap_state;
	(void)ap_first_op;
}
