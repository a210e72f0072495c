/*
 * A tick that no guest can hold off. While a guest runs with IF=0, Bochs delivers no maskable interrupt, so the local
 * APIC's timer stands still for the host, too. The interval timer therefore goes through the I/O APIC as an NMI to
 * all CPUs: it always ends the guest's stay, and the tick that waits is taken behind it.
 */
#include "cpufunc.h"
#include "kern.h"

#define IOAPIC			0xfec00000ul
#define IOAPIC_SELECT		(IOAPIC + 0x00)
#define IOAPIC_WINDOW		(IOAPIC + 0x10)
#define IOAPIC_REDIRECTION(pin)	(0x10 + 2 * (pin))
#define REDIRECTION_MASKED	(1u << 16)
#define REDIRECTION_NMI		(4u << 8)
#define REDIRECTION_ALL_CPUS	(0xffu << 24)

#define PIT_PIN			2
#define PIT_COUNTER0		0x40
#define PIT_CONTROL		0x43
#define PIT_RATE_GENERATOR	0x34		/* counter 0, both bytes, mode 2 */

static void
ioapic_write(uint32_t reg, uint32_t val)
{
	mmio_write32(IOAPIC_SELECT, reg);
	mmio_write32(IOAPIC_WINDOW, val);
}

void
nmi_tick_start(void)
{
	ioapic_write(IOAPIC_REDIRECTION(PIT_PIN) + 1, REDIRECTION_ALL_CPUS);
	ioapic_write(IOAPIC_REDIRECTION(PIT_PIN), REDIRECTION_NMI);
	/* The slowest rate: 65536 counts, about 55 ms of the machine's time. */
	outb(PIT_CONTROL, PIT_RATE_GENERATOR);
	outb(PIT_COUNTER0, 0);
	outb(PIT_COUNTER0, 0);
}
