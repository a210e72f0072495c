/* Exceptions and interrupts of the host. */
#include "cpufunc.h"
#include "kern.h"

struct frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

struct gate {
	uint16_t offset_low, selector;
	uint8_t ist, type;
	uint16_t offset_middle;
	uint32_t offset_high, reserved;
};

#define VECTOR_TICK	0x20
#define VECTOR_STRIDE	16

extern char vector_table[], msr_try_read[], msr_try_write[], msr_fault[];
int msr_try(uint32_t msr, uint64_t *value, int write);
void tick(void);
void trap(struct frame *frame);

static struct gate idt[256];

void
trap_init(void)
{
	for (int n = 0; n < 256; n++) {
		uint64_t entry = (uint64_t)(uintptr_t)vector_table + (uint64_t)n * VECTOR_STRIDE;

		idt[n] = (struct gate){ (uint16_t)entry, 0x08, 0, 0x8e, (uint16_t)(entry >> 16),
		    (uint32_t)(entry >> 32), 0 };
	}
}

void
idt_load(void)
{
	struct region_descriptor r = { sizeof(idt) - 1, (uint64_t)(uintptr_t)idt };

	__asm__ __volatile__("lidt %0" : : "m"(r));
}

int
rdmsr_safe(uint32_t msr, uint64_t *value)
{
	return (msr_try(msr, value, 0));
}

int
wrmsr_safe(uint32_t msr, uint64_t value)
{
	return (msr_try(msr, &value, 1));
}

void
trap(struct frame *frame)
{
	uint64_t dr6;

	switch (frame->vector) {
	case IDT_DB:
		dr6 = rdr6();
		load_dr6(DR6_RESET_VALUE);
		/* An instruction breakpoint would hit again at once. */
		frame->rflags |= PSL_RF;
		if (witness_debug_trap(dr6, &frame->rflags))
			return;
		break;
	case IDT_NMI:
		return;
	case IDT_GP:
		if (frame->rip == (uint64_t)(uintptr_t)msr_try_read || frame->rip == (uint64_t)(uintptr_t)msr_try_write) {
			frame->rip = (uint64_t)(uintptr_t)msr_fault;
			return;
		}
		break;
	case VECTOR_TICK:
		tick();
		return;
	case 0xff:
		return;
	}
	panic("vector %lu error %#lx rip %#lx rsp %#lx cr2 %#lx rax %#lx rdi %#lx rbp %#lx dr6 %#lx cpu %d thread %s",
	    frame->vector, frame->error, frame->rip, frame->rsp, rcr2(), frame->rax, frame->rdi, frame->rbp, rdr6(),
	    curcpu(), curthread() != NULL ? curthread()->td_name : "-");
}
