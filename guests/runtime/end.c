/* How a run ends: the signal that the payload names, then a parking loop that any host can kill. */
#include "runtime.h"

void
end_of_run(unsigned method)
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
	for (;;)
		__asm__ volatile("sti; hlt");
}
