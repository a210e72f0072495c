/*
 * How a run ends: the records go out, then the signal that the payload names, then a parking loop that any host can
 * kill.
 */
#include "runtime.h"

static void
signal_host(unsigned method)
{
	static const char shutdown[] = "Shutdown";

	switch (method) {
	case END_TESTDEV:
		outb(0xF4, END_TESTDEV_VALUE);
		break;
	case END_QEMU:
		outl(0xF4, END_TESTDEV_VALUE);
		break;
	case END_HLT:
		for (;;)
			__asm__ volatile("cli; hlt");
	case END_POWEROFF:
		outw(0x404, 0x3400);
		break;
	case END_REBOOT:
		outb(0xCF9, 0x06);
		break;
	case END_BOCHS:
		for (const char *byte = shutdown; *byte != '\0'; byte++)
			outb(0x8900, (uint8_t)*byte);
		break;
	default:
		break;
	}
}

/* Ends the run from whichever processor gets here first. */
void
end_of_run(const struct context *ctx, const struct payload_header *header)
{
	static uint32_t ending;

	WRITE_DR(7, DR7_INACTIVE);
	if (__atomic_exchange_n(&ending, 1, __ATOMIC_SEQ_CST) == 0) {
		send_records(header->nonce, header->end_method & END_KEEP_RECORDS);
		halt_others(ctx);
		signal_host(header->end_method & ~(unsigned)END_KEEP_RECORDS);
	}
	for (;;)
		__asm__ volatile("sti; hlt");
}
