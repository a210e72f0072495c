/* Runs a program: one operation after the other, with counted loops. */
#include "runtime.h"

#define LOOP_DEPTH 4

extern char user_return64[], user_return32[], user_return16[];

/* The table to look in follows from how wide the code of a mode is. */
const struct snippet *
find_snippet(unsigned mode, uint32_t number)
{
	switch (mode) {
	case MODE_LONG:
	case MODE_USER64:
		return (&snippets64[number]);
	case MODE_COMPAT:
	case MODE_PROT32:
		return (&snippets32[number]);
	default:
		return (&snippets16[number]);
	}
}

static void
write_dr(unsigned n, uint64_t value)
{
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

/* Code of other widths gets 32-bit arguments; the upper half of z is the base of its data segment. */
static uint64_t
exec_user(struct context *ctx, unsigned mode, const struct op *op, uint64_t code)
{
	struct user_call call = { op->x, op->y, op->z, 0, code, SELECTOR_USER64, SELECTOR_USER_DATA };

	call.rsp = STACKS + (uint64_t)ctx->cpu * CPU_STACKS + 2 * STACK_SIZE - 8;
	*(uint64_t *)call.rsp = (uint64_t)user_return64;
	if (mode != MODE_USER64) {
		uint32_t base = (uint32_t)(op->z >> 32);

		set_data_base(SELECTOR_USER_BASED, base);
		call.rdi = (uint32_t)op->x - base;
		call.rdx = (uint32_t)op->z;
		call.ds = SELECTOR_USER_BASED;
		call.cs = SELECTOR_USER32;
		*(uint64_t *)call.rsp = (uint64_t)user_return32;
	}
	if (mode == MODE_COMPAT16) {
		call.cs = SELECTOR_USER16;
		call.rip -= LOW_CODE;
		*(uint64_t *)call.rsp = (uint64_t)user_return16 - LOW_CODE;
	}
	return (call_user(&call, &ctx->snippet_stack));
}

static void
exec(struct context *ctx, const struct op *op)
{
	const struct snippet *snippet = find_snippet(op->b, op->c);
	uint64_t result;

	ctx->site = snippet->site;
	ctx->next = snippet->next;
	switch (op->b) {
	case MODE_LONG:
		result = call_snippet(op->x, op->y, op->z, snippet->code, &ctx->snippet_stack);
		break;
	case MODE_USER64:
	case MODE_COMPAT:
	case MODE_COMPAT16:
		result = exec_user(ctx, op->b, op, snippet->code);
		break;
	default:
		result = exec_legacy(ctx, op->b, op);
		break;
	}
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
force_recorded(struct context *ctx, const struct op *op)
{
	uint64_t ticks = ctx->ticks;
	struct record *record;

	force_exits(ctx, op->a, op->x);
	if (op->b) {
		record = record_new(ctx, RECORD_EXIT);
		record->value = op->x;
		record->aux = ctx->ticks - ticks;
	}
}

static void
record_value(struct context *ctx, const struct op *op)
{
	uint64_t value = peek(op->a, op->x);
	struct record *record = record_new(ctx, RECORD_VALUE);

	record->value = value;
	record->aux = op->x;
}

static void
synchronise(const struct op *op, uint32_t nonce)
{
	volatile uint32_t *mailbox = (volatile uint32_t *)MAILBOX;

	*mailbox = 0;
	send_phase(nonce, (uint32_t)op->x);
	if (op->a == SYNC_CONSOLE)
		(void)uart_receive();
	else if (op->a == SYNC_MEMORY)
		while (*mailbox != (uint32_t)op->x)
			;
}

/* False for what is no operation. */
static bool
simple_op(struct context *ctx, const struct op *op, uint32_t nonce)
{
	switch (op->opcode) {
	case OP_SET_DR:
		write_dr(op->a, op->x);
		break;
	case OP_SET_DR_SITE:
		write_dr(op->a, find_snippet(op->b, op->c)->site + op->x);
		break;
	case OP_SNAPSHOT:
		record_debug_registers(record_new(ctx, RECORD_SNAPSHOT));
		break;
	case OP_EXEC:
		exec(ctx, op);
		break;
	case OP_EXIT:
		force_recorded(ctx, op);
		break;
	case OP_POKE:
		poke(op->a, op->x, op->y);
		break;
	case OP_PEEK:
		record_value(ctx, op);
		break;
	case OP_VALUE_AT:
		ctx->value_at = op->x;
		ctx->value_size = op->a;
		break;
	case OP_SYNC:
		synchronise(op, nonce);
		break;
	case OP_SET_CR:
		set_control(op->a, op->x, op->y);
		break;
	case OP_HANDLER:
		ctx->handler_flags = op->c;
		ctx->handler_exit = op->b;
		break;
	case OP_CPUID:
		record_cpuid(ctx, (uint32_t)op->x, (uint32_t)op->y);
		break;
	case OP_WAIT_CPU:
		wait_cpu(ctx, op->a);
		break;
	case OP_BARRIER:
		barrier((uint32_t)op->x);
		break;
	case OP_MAP:
		map_page(op->a, op->b, op->x, op->y);
		break;
	case OP_CONTROL:
		record_control(ctx);
		break;
	case OP_TABLES:
		record_tables(ctx);
		break;
	case OP_EXPECT_DR:
		expect_dr(ctx, op->a, op->x, op->y);
		break;
	case OP_COUNTED:
		record_counted(ctx);
		break;
	case OP_USE_TABLES:
		use_tables(op->a);
		break;
	case OP_NOTE:
		record_new(ctx, RECORD_NOTE)->value = op->x;
		break;
	default:
		return (false);
	}
	return (true);
}

/* Runs the operations from index `first` to the next OP_END. */
void
run_ops(struct context *ctx, const struct payload_header *header, uint32_t first)
{
	const struct op *ops = (const struct op *)(header + 1);
	struct { uint32_t start; uint64_t left; } loops[LOOP_DEPTH];
	unsigned depth = 0;

	for (uint32_t n = first; n < header->op_count && ops[n].opcode != OP_END; n++) {
		bool done = true;

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
		} else if (ops[n].opcode == OP_START_CPU) {
			start_cpu(ctx, &ops[n]);
			/* Its operations stand right here; ours go on behind them. */
			n = (uint32_t)ops[n].y - 1;
		} else {
			done = simple_op(ctx, &ops[n], header->nonce);
		}
		/* Counted when it is done: the closing line tells the host. */
		ctx->operations += done;
	}
}
