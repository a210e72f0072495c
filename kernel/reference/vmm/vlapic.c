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
#define ICR_VECTOR	0xff
#define ICR_MODE	0x700
#define ICR_FIXED	0x000
#define ICR_NMI		0x400
#define ICR_INIT	0x500
#define ICR_STARTUP	0x600
#define ICR_LOGICAL	0x800
#define ICR_ASSERT	0x4000
#define ICR_SHORTHAND	0xc0000
#define ICR_SELF	0x40000
#define ICR_ALL		0x80000
#define ICR_ALL_BUT_SELF 0xc0000
#define MSR_X2APIC	0x800
#define APICBASE_BSP	0x100
#define APICBASE_ENABLE	0x800

/* Of an application processor: start-up IPIs are taken only behind an INIT. */
enum boot_state { BS_INIT, BS_SIPI, BS_RUNNING };

struct vlapic {
	struct vcpu *vcpu;
	uint32_t regs[0x400 / 16];
	uint64_t irr[4], isr[4];
	uint64_t deadline;			/* of the timer, in time stamps; 0 = off */
	uint64_t period;
	uint64_t apicbase;
	enum boot_state boot_state;
};

#define REG(v, offset)	((v)->regs[(offset) / 16])

struct vlapic *
vlapic_create(struct vcpu *vcpu)
{
	struct vlapic *vlapic = kzalloc(sizeof(*vlapic));

	if (vlapic != NULL) {
		vlapic->vcpu = vcpu;
		vlapic->boot_state = vcpu->vcpuid == 0 ? BS_RUNNING : BS_INIT;
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
	vlapic->apicbase = APIC_PAGE | APICBASE_ENABLE | (vlapic->vcpu->vcpuid == 0 ? APICBASE_BSP : 0);
	REG(vlapic, REG_ID) = (uint32_t)vlapic->vcpu->vcpuid << 24;
	REG(vlapic, REG_VERSION) = VERSION;
	REG(vlapic, REG_DFR) = 0xffffffff;
	REG(vlapic, REG_SVR) = 0xff;
	for (unsigned lvt = REG_LVT_TIMER; lvt <= REG_LVT_LAST; lvt += 0x10)
		REG(vlapic, lvt) = LVT_MASKED;
}

void
vlapic_copy(struct vlapic *to, const struct vlapic *from)
{
	struct vcpu *vcpu = to->vcpu;

	*to = *from;
	to->vcpu = vcpu;
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

/* Other vCPUs send interrupts, so the request register is changed atomically. */
static void
set_irr(struct vlapic *vlapic, uint32_t vector)
{
	__atomic_or_fetch(&vlapic->irr[vector / 64], 1ull << (vector & 63), __ATOMIC_SEQ_CST);
}

void
vlapic_timer_poll(struct vlapic *vlapic)
{
	uint32_t lvt = REG(vlapic, REG_LVT_TIMER);

	if (vlapic->deadline == 0 || rdtsc() < vlapic->deadline)
		return;
	if ((lvt & LVT_MASKED) == 0 && (REG(vlapic, REG_SVR) & SVR_ENABLE) != 0) {
		set_irr(vlapic, lvt & 0xff);
		vmm_stat_incr(vlapic->vcpu, VLAPIC_INTR_TIMER, 1);
	}
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
	__atomic_and_fetch(&vlapic->irr[vector / 64], ~(1ull << (vector & 63)), __ATOMIC_SEQ_CST);
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

static bool
addressed(const struct vlapic *from, uint32_t icr, uint32_t vcpuid)
{
	uint32_t self = (uint32_t)from->vcpu->vcpuid, to = REG(from, REG_ICR_HIGH) >> 24;

	switch (icr & ICR_SHORTHAND) {
	case ICR_SELF:
		return (vcpuid == self);
	case ICR_ALL:
		return (true);
	case ICR_ALL_BUT_SELF:
		return (vcpuid != self);
	default:
		return ((icr & ICR_LOGICAL) != 0 ? (to >> vcpuid & 1) != 0 : to == vcpuid || to == 0xff);
	}
}

/* One IPI to one vCPU; true when bhyve is to start it. */
static bool
deliver(struct vlapic *from, struct vcpu *to, uint32_t icr)
{
	struct vm_exit *vme = vm_exitinfo(from->vcpu);

	switch (icr & ICR_MODE) {
	case ICR_FIXED:
		set_irr(to->vlapic, icr & ICR_VECTOR);
		vcpu_notify(to);
		return (false);
	case ICR_NMI:
		to->nmi_pending = true;
		vcpu_notify(to);
		return (false);
	case ICR_INIT:
		if ((icr & ICR_ASSERT) == 0 || to->vcpuid == 0 || to == from->vcpu)
			return (false);
		if (to->vlapic->boot_state == BS_RUNNING) {
			to->init = true;
			to->parked = true;
			vcpu_notify(to);
		}
		to->vlapic->boot_state = BS_SIPI;
		return (false);
	case ICR_STARTUP:
		if (to->vlapic->boot_state != BS_SIPI)
			return (false);
		to->vlapic->boot_state = BS_RUNNING;
		vme->exitcode = VM_EXITCODE_SPINUP_AP;
		vme->u.spinup_ap.vcpu = to->vcpuid;
		vme->u.spinup_ap.rip = (uint64_t)(icr & ICR_VECTOR) << 12;
		return (true);
	default:
		return (false);
	}
}

static bool
write_icr(struct vlapic *vlapic, uint32_t icr)
{
	const struct vm *vm = vlapic->vcpu->vm;
	bool retu = false;

	for (uint32_t n = 0; n < VM_MAXCPU; n++) {
		if ((vm->active_cpus & 1u << n) != 0 && addressed(vlapic, icr, n))
			retu |= deliver(vlapic, vm->vcpus[n], icr);
	}
	return (retu);
}

static void
write_register(struct vlapic *vlapic, uint32_t offset, uint32_t value, bool *retu)
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
	case REG_ICR_LOW:
		REG(vlapic, REG_ICR_LOW) = value;
		*retu = write_icr(vlapic, value);
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
vlapic_mmio(struct vlapic *vlapic, uint64_t gpa, bool write, uint32_t *value, bool *retu)
{
	uint32_t offset = (uint32_t)gpa & 0xff0;

	if ((gpa & ~0xfffull) != APIC_PAGE)
		return (false);
	if (write)
		write_register(vlapic, offset, *value, retu);
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
