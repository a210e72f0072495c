/* The boot processor's first C code. */
#include "cpufunc.h"
#include "kern.h"

void kmain(void);

void
kmain(void)
{
	mem_init();
	trap_init();
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	cpu_setup(0);
	ctl_init();
	smp_start();
	nmi_tick_start();
	if (kthread_add("ctl", ctl_thread, NULL, 1u << 0) == NULL)
		panic("no memory for the control thread");
	sched_idle();
}
