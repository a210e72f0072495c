/* The ways to leave the guest on purpose, by kind. */
#include "runtime.h"

#define APIC            0xFEE00000UL
#define APIC_VERSION    (APIC + 0x030)
#define APIC_SVR        (APIC + 0x0F0)
#define APIC_LVT_TIMER  (APIC + 0x320)
#define APIC_INITIAL    (APIC + 0x380)
#define APIC_DIVIDE     (APIC + 0x3E0)
#define MSR_APICBASE    0x1B

#define TIMER_COUNT     20000
#define BUSY_UNIT       1000

/* Not CD alone: NW without CD is a general protection fault, and a reset leaves both set (SDM volume 3, 11.5.1). */
#define CR0_CACHING     (1UL << 30 | 1UL << 29)
#define CR4_PGE         (1UL << 7)
#define CR4_OSXSAVE     (1UL << 18)

void
apic_init(void)
{
	/* The legacy controllers are silent; the local APIC is on and knows the timer's vector. */
	outb(0x21, 0xFF);
	outb(0xA1, 0xFF);
	mmio_write(APIC_SVR, 0x100 | VECTOR_SPURIOUS);
	mmio_write(APIC_DIVIDE, 0xB);
	mmio_write(APIC_LVT_TIMER, VECTOR_TIMER);
}

static void
hlt_until_timer(struct context *ctx)
{
	uint64_t before = ctx->ticks;

	/*
	 * Periodic: were the only tick to come before the HLT, nothing would end it. A tick leaves interrupts off behind
	 * it: where an exit takes longer than a period (a host in an emulator, under DTrace) the next one is due by then,
	 * and one after the other would keep this from ever going on.
	 */
	__asm__ volatile("cli" : : : "memory");
	ctx->single_tick = 1;
	mmio_write(APIC_LVT_TIMER, 0x20000 | VECTOR_TIMER);
	mmio_write(APIC_INITIAL, TIMER_COUNT);
	while (ctx->ticks == before)
		__asm__ volatile("sti; hlt" : : : "memory");
	mmio_write(APIC_INITIAL, 0);
	mmio_write(APIC_LVT_TIMER, VECTOR_TIMER);
	ctx->single_tick = 0;
	__asm__ volatile("sti" : : : "memory");
}

static void
busy(uint64_t units)
{
	for (uint64_t left = units * BUSY_UNIT; left != 0; left--)
		__asm__ volatile("" : : : "memory");
}

static void
toggle_control_registers(void)
{
	uint64_t cr0, cr4;

	__asm__ volatile("movq %%cr0, %0" : "=r"(cr0));
	__asm__ volatile("movq %0, %%cr0" : : "r"(cr0 ^ CR0_CACHING));
	__asm__ volatile("movq %0, %%cr0" : : "r"(cr0));
	__asm__ volatile("movq %%cr4, %0" : "=r"(cr4));
	__asm__ volatile("movq %0, %%cr4" : : "r"(cr4 ^ CR4_PGE));
	__asm__ volatile("movq %0, %%cr4" : : "r"(cr4));
}

/* The next page of this processor's share; none is touched twice. */
static void
touch_next(struct context *ctx)
{
	uint64_t end = FIRST_TOUCH + (ctx->cpu + 1UL) * FIRST_TOUCH_SHARE;

	if (ctx->first_touch == end)
		return;
	*(volatile uint64_t *)ctx->first_touch = end;
	ctx->first_touch += 4096;
}

static void
xsetbv_same(void)
{
	uint64_t cr4;
	uint32_t low, high;

	__asm__ volatile("movq %%cr4, %0" : "=r"(cr4));
	__asm__ volatile("movq %0, %%cr4" : : "r"(cr4 | CR4_OSXSAVE));
	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	__asm__ volatile("xsetbv" : : "a"(low), "d"(high), "c"(0));
}

void
force_exits(struct context *ctx, unsigned kind, uint64_t count)
{
	uint32_t regs[4];
	uint64_t value;

	if (kind == EXIT_BUSY) {
		busy(count);
		return;
	}
	for (; count != 0; count--) {
		switch (kind) {
		case EXIT_CPUID:
			cpuid(0, 0, regs);
			break;
		case EXIT_OUT80:
			outb(0x80, (uint8_t)count);
			break;
		case EXIT_IN21:
			(void)inb(0x21);
			break;
		case EXIT_HLT_TIMER:
			hlt_until_timer(ctx);
			break;
		case EXIT_FIRST_TOUCH:
			touch_next(ctx);
			break;
		case EXIT_LAPIC_MMIO:
			(void)mmio_read(APIC_VERSION);
			break;
		case EXIT_RDMSR:
			(void)rdmsr(MSR_APICBASE);
			break;
		case EXIT_WRMSR:
			wrmsr(MSR_APICBASE, rdmsr(MSR_APICBASE));
			break;
		case EXIT_PAUSE:
			__asm__ volatile("pause");
			break;
		case EXIT_XSETBV:
			xsetbv_same();
			break;
		case EXIT_CR_WRITE:
			toggle_control_registers();
			break;
		case EXIT_CR8:
			__asm__ volatile("movq %0, %%cr8; movq %1, %%cr8" : : "r"(1UL), "r"(0UL));
			break;
		case EXIT_CR3:
			__asm__ volatile("movq %%cr3, %0; movq %0, %%cr3" : "=r"(value) : : "memory");
			break;
		default:
			return;
		}
	}
}
