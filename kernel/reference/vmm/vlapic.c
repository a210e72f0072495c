/* A local APIC as far as a small guest needs one: timer, task priority, end of interrupt. */
#include "cpufunc.h"
#include "vm.h"

#define REG_ID		0x020
#define REG_VERSION	0x030
#define REG_TPR		0x080
#define REG_PPR		0x0a0
#define REG_EOI		0x0b0
#define REG_LDR		0x0d0
#define REG_DFR		0x0e0
#define REG_SVR		0x0f0
#define REG_ISR		0x100
#define REG_IRR		0x200
#define REG_ICR_LOW	0x300
#define REG_ICR_HIGH	0x310
#define REG_LVT_TIMER	0x320
#define REG_LVT_LAST	0x370
#define REG_INITIAL	0x380
#define REG_CURRENT	0x390
#define REG_DIVIDE	0x3e0
#define VERSION		0x00050014
#define SVR_ENABLE	0x100
#define LVT_MASKED	0x10000
#define LVT_PERIODIC	0x20000
#define MSR_X2APIC	0x800
#define APICBASE_BSP	0x100
#define APICBASE_ENABLE	0x800

struct vlapic {
	struct vcpu *vcpu;
	uint32_t regs[0x400 / 16];
	uint64_t irr[4], isr[4];
	uint64_t deadline;			/* of the timer, in time stamps; 0 = off */
	uint64_t period;
	uint64_t apicbase;
};

#define REG(v, offset)	((v)->regs[(offset) / 16])

struct vlapic *
vlapic_create(struct vcpu *vcpu)
{
	struct vlapic *vlapic = kzalloc(sizeof(*vlapic));

	if (vlapic != NULL) {
		vlapic->vcpu = vcpu;
		vlapic_reset(vlapic);
	}
	return (vlapic);
}

void
vlapic_reset(struct vlapic *vlapic)
{
	memset(vlapic->regs, 0, sizeof(vlapic->regs));
	memset(vlapic->irr, 0, sizeof(vlapic->irr));
	memset(vlapic->isr, 0, sizeof(vlapic->isr));
	vlapic->deadline = 0;
	vlapic->apicbase = APIC_PAGE | APICBASE_ENABLE | APICBASE_BSP;
	REG(vlapic, REG_VERSION) = VERSION;
	REG(vlapic, REG_DFR) = 0xffffffff;
	REG(vlapic, REG_SVR) = 0xff;
	for (unsigned lvt = REG_LVT_TIMER; lvt <= REG_LVT_LAST; lvt += 0x10)
		REG(vlapic, lvt) = LVT_MASKED;
}

static int
highest(const uint64_t bits[4])
{
	for (int n = 3; n >= 0; n--)
		if (bits[n] != 0)
			return (n * 64 + 63 - __builtin_clzll(bits[n]));
	return (-1);
}

static uint64_t
divisor(const struct vlapic *vlapic)
{
	uint32_t d = REG(vlapic, REG_DIVIDE);
	unsigned shift = ((d & 3) | (d >> 1 & 4)) + 1;

	return (1ull << (shift & 7));
}

void
vlapic_timer_poll(struct vlapic *vlapic)
{
	uint32_t lvt = REG(vlapic, REG_LVT_TIMER);

	if (vlapic->deadline == 0 || rdtsc() < vlapic->deadline)
		return;
	if ((lvt & LVT_MASKED) == 0 && (REG(vlapic, REG_SVR) & SVR_ENABLE) != 0)
		vlapic->irr[(lvt & 0xff) / 64] |= 1ull << (lvt & 63);
	vlapic->deadline = (lvt & LVT_PERIODIC) ? rdtsc() + vlapic->period : 0;
}

/* The vector to deliver, if its priority class is above the task's and above what is being served. */
bool
vlapic_pending_intr(struct vlapic *vlapic, int *vector)
{
	int pending, serving;

	vlapic_timer_poll(vlapic);
	pending = highest(vlapic->irr);
	serving = highest(vlapic->isr);
	if (pending < 0 || (serving >= 0 && pending >> 4 <= serving >> 4) ||
	    (uint32_t)pending >> 4 <= REG(vlapic, REG_TPR) >> 4)
		return (false);
	*vector = pending;
	return (true);
}

bool
vlapic_has_intr(struct vlapic *vlapic)
{
	int vector;

	return (vlapic_pending_intr(vlapic, &vector));
}

void
vlapic_intr_accepted(struct vlapic *vlapic, int vector)
{
	vlapic->irr[vector / 64] &= ~(1ull << (vector & 63));
	vlapic->isr[vector / 64] |= 1ull << (vector & 63);
}

uint64_t
vlapic_get_cr8(struct vlapic *vlapic)
{
	return (REG(vlapic, REG_TPR) >> 4);
}

void
vlapic_set_cr8(struct vlapic *vlapic, uint64_t val)
{
	REG(vlapic, REG_TPR) = (uint32_t)(val & 0xf) << 4;
}

static uint32_t
read_register(struct vlapic *vlapic, uint32_t offset)
{
	if (offset >= REG_ISR && offset < REG_IRR + 0x80) {
		const uint64_t *bits = offset < REG_ISR + 0x80 ? vlapic->isr : offset < REG_IRR ? NULL : vlapic->irr;
		unsigned word = (offset & 0x7f) / 16;

		return (bits == NULL ? 0 : (uint32_t)(bits[word / 2] >> (32 * (word & 1))));
	}
	if (offset == REG_CURRENT) {
		uint64_t now = rdtsc();

		return (vlapic->deadline > now ? (uint32_t)((vlapic->deadline - now) / divisor(vlapic)) : 0);
	}
	return (offset / 16 < sizeof(vlapic->regs) / 4 ? REG(vlapic, offset) : 0);
}

static void
write_register(struct vlapic *vlapic, uint32_t offset, uint32_t value)
{
	int serving;

	switch (offset) {
	case REG_ID:
	case REG_VERSION:
	case REG_PPR:
	case REG_CURRENT:
		break;
	case REG_EOI:
		serving = highest(vlapic->isr);
		if (serving >= 0)
			vlapic->isr[serving / 64] &= ~(1ull << (serving & 63));
		break;
	case REG_INITIAL:
		REG(vlapic, REG_INITIAL) = value;
		vlapic->period = value * divisor(vlapic);
		vlapic->deadline = value != 0 ? rdtsc() + vlapic->period : 0;
		break;
	default:
		if (offset / 16 < sizeof(vlapic->regs) / 4)
			REG(vlapic, offset) = value;
	}
}

bool
vlapic_mmio(struct vlapic *vlapic, uint64_t gpa, bool write, uint32_t *value)
{
	uint32_t offset = (uint32_t)gpa & 0xff0;

	if ((gpa & ~0xfffull) != APIC_PAGE)
		return (false);
	if (write)
		write_register(vlapic, offset, *value);
	else
		*value = read_register(vlapic, offset);
	return (true);
}

bool
lapic_msr(uint32_t num)
{
	return (num == MSR_APICBASE || (num >= MSR_X2APIC && num < MSR_X2APIC + 0x40));
}

/* The mode of the local APIC is fixed: any other value of IA32_APIC_BASE, and x2APIC registers, are #GP. */
int
lapic_rdmsr(struct vcpu *vcpu, uint32_t num, uint64_t *val, bool *retu)
{
	(void)retu;
	if (num == MSR_APICBASE)
		*val = vm_lapic(vcpu)->apicbase;
	else
		vm_inject_gp(vcpu);
	return (0);
}

int
lapic_wrmsr(struct vcpu *vcpu, uint32_t num, uint64_t val, bool *retu)
{
	(void)retu;
	if (num != MSR_APICBASE || val != vm_lapic(vcpu)->apicbase)
		vm_inject_gp(vcpu);
	return (0);
}
