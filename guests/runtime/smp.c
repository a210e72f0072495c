/* Other processors: started by INIT and start-up IPI, then given parts of the program to run. */
#include "runtime.h"

#define ICR_LOW     0xFEE00300UL
#define ICR_HIGH    0xFEE00310UL
#define ICR_INIT    0x00004500
#define ICR_STARTUP 0x00004600

/* Turns of a waiting loop after which a processor counts as absent. */
#define PATIENCE    10000000

volatile uint32_t ap_starting;          /* read by ap.S */
void ap_main(unsigned cpu);

/* Not PAUSE: it may be an exit, and nothing here may cause one that no program asked for. */
static inline void
relax(void)
{
	__asm__ volatile("" : : : "memory");
}

static int
wait_for(volatile uint32_t *word, uint32_t value)
{
	for (unsigned turn = 0; turn < PATIENCE; turn++) {
		if (*word == value)
			return (1);
		relax();
	}
	return (0);
}

static void
send_ipi(unsigned cpu, uint32_t command)
{
	mmio_write(ICR_HIGH, cpu << 24);
	mmio_write(ICR_LOW, command);
	/* Between INIT and the start-up IPI some time must pass on real processors; a virtual one needs none. */
	for (volatile unsigned n = 0; n < 1000; n++)
		;
}

static void
record_cpu(struct context *ctx, unsigned cpu, unsigned what)
{
	struct record *record = record_new(ctx, RECORD_CPU);

	record->value = what;
	record->aux = cpu;
}

/* OP_START_CPU: gives processor op->a the operations from op->x on; INIT first if op->b says so. */
void
start_cpu(struct context *ctx, const struct op *op)
{
	struct context *other = &contexts[op->a % MAX_CPUS];
	uint32_t before = other->state;

	if (op->b) {
		other->state = CPU_ABSENT;
		ap_starting = other->cpu;
		send_ipi(other->cpu, ICR_INIT);
		send_ipi(other->cpu, ICR_STARTUP | LOW_CODE >> 12);
		if (!wait_for(&other->state, CPU_IDLE)) {
			/* Nobody came: a host may ignore an INIT for a processor that runs already. */
			other->state = before;
			record_cpu(ctx, op->a, 0);
			return;
		}
		record_captured(other, AP_STATE);
	}
	if (other->state != CPU_IDLE) {
		record_cpu(ctx, op->a, 0);
		return;
	}
	record_cpu(ctx, op->a, 1);
	other->value_at = ctx->value_at;
	other->value_size = ctx->value_size;
	other->first_op = (uint32_t)op->x;
	other->state = CPU_GO;
}

/* OP_WAIT_CPU. */
void
wait_cpu(struct context *ctx, unsigned cpu)
{
	struct context *other = &contexts[cpu % MAX_CPUS];

	if (other->state == CPU_ABSENT)
		return;
	while (other->state == CPU_GO || other->state == CPU_BUSY)
		relax();
	record_cpu(ctx, cpu, 2);
}

/* OP_BARRIER: all of `processors` arrive before any of them goes on. */
void
barrier(uint32_t processors)
{
	static volatile uint32_t arrived, generation;
	uint32_t mine = generation;

	if (__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST) == processors) {
		arrived = 0;
		__atomic_add_fetch(&generation, 1, __ATOMIC_SEQ_CST);
		return;
	}
	while (generation == mine)
		relax();
}

/* bhyve ends a halted VM only when every processor has halted. */
void
halt_others(const struct context *ctx)
{
	for (unsigned cpu = 0; cpu < MAX_CPUS; cpu++)
		if (cpu != ctx->cpu && contexts[cpu].state != CPU_ABSENT)
			contexts[cpu].state = CPU_HALT;
}

/* Where ap.S goes on: waits for a part of the program, runs it, waits again. */
void
ap_main(unsigned cpu)
{
	const struct payload_header *header = (const struct payload_header *)ROM_BASE;
	struct context *ctx = &contexts[cpu];

	load_tables(cpu);
	touch_stacks(cpu);
	apic_init();
	__asm__ volatile("sti");
	for (;;) {
		ctx->state = CPU_IDLE;
		while (ctx->state != CPU_GO && ctx->state != CPU_HALT)
			relax();
		if (ctx->state == CPU_HALT)
			for (;;)
				__asm__ volatile("cli; hlt");
		ctx->state = CPU_BUSY;
		run_ops(ctx, header, ctx->first_op);
	}
}
