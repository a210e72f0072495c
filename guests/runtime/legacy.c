/*
 * Code outside long mode: real mode, 16- and 32-bit protected mode without paging, virtual-8086 mode.
 *
 * Only the boot processor goes there, with interrupts off. legacy.S changes modes and notes exceptions as events in
 * low memory; here they become records.
 */
#include "runtime.h"
#include "legacy.h"

#define GATE_INTERRUPT32 0x8E
#define GATE_TASK        0x85
#define VECTOR_RETURN    0x20           /* vector by which virtual-8086 code comes back */
#define STUB_STRIDE      16
#define STUB16_STRIDE    8
#define VECTORS          32

/* At LEGACY; legacy.S knows the offsets. */
struct legacy {
	uint32_t mode, code, edi, esi, edx, eax, flags, value_at;
	uint32_t site, next, data, count, abort, base, reserved[2];
	uint64_t rsp;
};

struct event {
	uint32_t vector, eip, cs, eflags, error, dr6, dr7, eax, value[2], reserved[6];
};

struct gate32 {
	uint16_t offset_low, selector, type, offset_high;
};

struct tss32 {
	uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
	uint32_t es, cs, ss, ds, fs, gs, ldt;
	uint16_t trap, iomap;
	uint8_t ports[33];              /* ports 0 to 0xFF are open */
};

_Static_assert(offsetof(struct tss32, eip) == TASK_EIP && offsetof(struct tss32, eflags) == TASK_EFLAGS &&
    offsetof(struct tss32, cs) == TASK_CS && sizeof(struct tss32) == TASK_SIZE, "legacy.S");

_Static_assert(sizeof(struct event) == 64, "event");

extern char stubs32[], stub_return[], stubs16[], task_entry[], task_debug[];
void enter_legacy(void);

struct gate32 legacy_idt[VECTOR_RETURN + 1];
struct tss32 legacy_tasks[2];

static struct gate32
gate32(const char *handler, unsigned dpl)
{
	uint32_t entry = (uint32_t)(uint64_t)handler;

	return ((struct gate32){ (uint16_t)entry, SELECTOR_CODE32, (uint16_t)((GATE_INTERRUPT32 | dpl << 5) << 8),
	    (uint16_t)(entry >> 16) });
}

static void
set_task(unsigned selector, struct tss32 *task)
{
	uint64_t base = (uint64_t)task;

	/* Up to the byte of ones behind the port bitmap. */
	gdt[selector / 8] = (offsetof(struct tss32, ports) + sizeof(task->ports) - 1) | (base & 0xFFFFFF) << 16 |
	    0x89UL << 40;
}

/* Vector tables of the modes: an IDT with 32-bit gates, and real mode's table at address 0. */
static void
build_tables(unsigned how)
{
	for (unsigned vector = 0; vector < VECTORS; vector++) {
		legacy_idt[vector] = gate32(stubs32 + vector * STUB_STRIDE, vector == VECTOR_BP ? 3 : 0);
		((volatile uint32_t *)0)[vector] = (uint32_t)(LOW_CODE >> 4) << 16 |
		    (uint16_t)((uint64_t)stubs16 + vector * STUB16_STRIDE - LOW_CODE);
	}
	legacy_idt[VECTOR_RETURN] = gate32(stub_return, 3);
	if (how & TASK_GATE)
		legacy_idt[VECTOR_DB] = (struct gate32){ 0, SELECTOR_TASK, GATE_TASK << 8, 0 };
	if (how & TASK_GATE_USER)
		legacy_idt[VECTOR_AC].selector = SELECTOR_USER32;
}

static void
build_tasks(unsigned how)
{
	const char *entry = how & TASK_GATE ? task_debug : task_entry;

	legacy_tasks[0] = (struct tss32){ .esp0 = LOW_STACK, .ss0 = SELECTOR_DATA,
	    .iomap = offsetof(struct tss32, ports), .ports[32] = 0xFF };
	legacy_tasks[1] = (struct tss32){ .eip = (uint32_t)(uint64_t)entry, .eflags = 2,
	    .esp = VM86_STACK, .es = SELECTOR_DATA, .cs = SELECTOR_CODE32, .ss = SELECTOR_DATA, .ds = SELECTOR_DATA,
	    .fs = SELECTOR_DATA, .gs = SELECTOR_DATA, .trap = (uint16_t)(how & TASK_TRAP),
	    .iomap = offsetof(struct tss32, ports), .ports[32] = 0xFF };
	set_task(SELECTOR_TSS32, &legacy_tasks[0]);
	set_task(SELECTOR_TASK, &legacy_tasks[1]);
}

static void
record_event(struct context *ctx, unsigned mode, const struct event *event)
{
	struct record *record = record_new(ctx, RECORD_EXCEPTION);
	uint64_t value = (uint64_t)event->value[1] << 32 | event->value[0];

	record->vector = (uint8_t)event->vector;
	record->rip = event->eip;
	record->rflags = event->eflags;
	record->error = event->error;
	record->cs = (uint16_t)event->cs;
	record->mode = (uint8_t)mode;
	record->dr6 = event->dr6;
	record->dr7 = event->dr7;
	record->value = ctx->value_size >= 8 ? value : value & ((1UL << 8 * ctx->value_size) - 1);
	record->aux = event->eax;
}

/* OP_EXEC in one of the modes; the result is eax. Above the low half of op->y stand bits of TASK_*. */
uint64_t
exec_legacy(struct context *ctx, unsigned mode, const struct op *op)
{
	volatile struct legacy *legacy = (volatile struct legacy *)LEGACY;
	const struct event *events = (const struct event *)LEGACY_EVENTS;
	const struct snippet *snippet = find_snippet(mode, op->c);
	uint32_t base = (uint32_t)(op->z >> 32);

	build_tables((unsigned)(op->y >> 32));
	build_tasks((unsigned)(op->y >> 32));
	set_data_base(SELECTOR_BASED, base);
	legacy->mode = mode;
	legacy->base = mode == MODE_PROT32 ? 0 : LOW_CODE;
	legacy->code = (uint32_t)snippet->code - legacy->base;
	legacy->site = (uint32_t)snippet->site;
	legacy->next = (uint32_t)snippet->next;
	legacy->edi = (uint32_t)op->x - base;
	legacy->esi = (uint32_t)op->y;
	legacy->edx = (uint32_t)op->z;
	legacy->flags = ctx->handler_flags;
	legacy->value_at = (uint32_t)ctx->value_at;
	legacy->data = mode == MODE_REAL || mode == MODE_VM86 || mode == MODE_VM86_IOPL0 ? base >> 4 : SELECTOR_BASED;
	legacy->count = legacy->abort = legacy->eax = 0;
	/* Touched now, not in the middle of an exception's delivery. */
	*(volatile uint8_t *)(LOW_STACK - 64) = 0;
	enter_legacy();
	for (uint32_t n = 0; n < legacy->count && n < LEGACY_EVENTS_MAX; n++)
		record_event(ctx, mode, &events[n]);
	if (legacy->count > LEGACY_EVENTS_MAX)
		record_new(ctx, RECORD_OVERFLOW);
	return (legacy->eax);
}
