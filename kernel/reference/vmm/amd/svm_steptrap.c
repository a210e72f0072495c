#include <stdint.h>

#include "vmm.h"
#include "cpufunc.h"
#include "svm_internal.h"

/*
 * When an intercepted instruction was single-stepped by the guest, Bochs 2.7 takes the pending trap along through
 * #VMEXIT and delivers it to the host, at the instruction behind VMRUN; real processors discard it. There TR and
 * GS.base still are the guest's, and an ordinary handler could not even find out which CPU it is on. While the module
 * is loaded its own gate stands before the host's and drops that one trap. The host's DR6, which the trap spoils, is
 * restored by svm_dr_leave_guest() anyway.
 */
struct gate {
	uint16_t offset_low;
	uint16_t selector;
	uint8_t	 ist;
	uint8_t	 type;
	uint16_t offset_middle;
	uint32_t offset_high;
	uint32_t reserved;
};

extern char svm_debug_trap[];
uint64_t svm_host_debug_trap;		/* where all other debug exceptions go on */
static uint8_t host_debug_ist;

static struct gate *
debug_gate(void)
{
	return ((struct gate *)(uintptr_t)host_idt_base() + IDT_DB);
}

static void
set_offset(struct gate *gate, uint64_t offset)
{
	gate->offset_low = (uint16_t)offset;
	gate->offset_middle = (uint16_t)(offset >> 16);
	gate->offset_high = (uint32_t)(offset >> 32);
}

void
svm_steptrap_install(void)
{
	struct gate *gate = debug_gate();

	svm_host_debug_trap = (uint64_t)gate->offset_low | (uint64_t)gate->offset_middle << 16 |
	    (uint64_t)gate->offset_high << 32;
	host_debug_ist = gate->ist;
	/* The stack of an IST entry would be looked up in the guest's TSS. */
	gate->ist = 0;
	set_offset(gate, (uintptr_t)svm_debug_trap);
}

void
svm_steptrap_remove(void)
{
	struct gate *gate = debug_gate();

	set_offset(gate, svm_host_debug_trap);
	gate->ist = host_debug_ist;
}
