/* What the control channel can ask for. */
#include "cpufunc.h"
#include "ctl.h"
#include "ctl_internal.h"
#include "fbt.h"
#include "vm.h"

#define NAME		VM_NAMELEN
#define ROM_CACHE	96
#define STEP_TICKS	20	/* so many times longer is the way into a guest when every instruction traps */

/* A reader of the request's payload and a writer of the answer. */
struct args {
	const uint8_t *in;
	size_t left;
	uint8_t *out;
	size_t *used;
	bool bad;
};

static uint64_t
take(struct args *a, size_t bytes)
{
	uint64_t value = 0;

	if (a->left < bytes) {
		a->bad = true;
		return (0);
	}
	memcpy(&value, a->in, bytes);
	a->in += bytes;
	a->left -= bytes;
	return (value);
}

static void
give(struct args *a, const void *data, size_t bytes)
{
	memcpy(a->out, data, bytes);
	a->out += bytes;
	*a->used += bytes;
}

static void
give64(struct args *a, uint64_t value)
{
	give(a, &value, 8);
}

static void
give32(struct args *a, uint32_t value)
{
	give(a, &value, 4);
}

static struct vm *
take_vm(struct args *a)
{
	char name[NAME];

	if (a->left < NAME) {
		a->bad = true;
		return (NULL);
	}
	memcpy(name, a->in, NAME);
	name[NAME - 1] = '\0';
	a->in += NAME;
	a->left -= NAME;
	return (vm_lookup(name));
}

/* --- ROM pages, by a key that the other side makes of their contents ------------------------------------ */

static struct { uint64_t key, used; void *page; } rom_cache[ROM_CACHE];
static uint64_t rom_clock;

static void *
rom_find(uint64_t key)
{
	for (int n = 0; n < ROM_CACHE; n++) {
		if (rom_cache[n].page != NULL && rom_cache[n].key == key) {
			rom_cache[n].used = ++rom_clock;
			return (rom_cache[n].page);
		}
	}
	return (NULL);
}

static int
rom_page(struct args *a)
{
	uint64_t key = take(a, 8);
	int oldest = 0;

	if (a->left != PAGE_SIZE)
		return (EINVAL);
	if (rom_find(key) != NULL)
		return (0);
	for (int n = 0; n < ROM_CACHE; n++)
		if (rom_cache[n].used < rom_cache[oldest].used)
			oldest = n;
	if (rom_cache[oldest].page == NULL)
		rom_cache[oldest].page = contigalloc(1);
	if (rom_cache[oldest].page == NULL)
		return (ENOMEM);
	memcpy(rom_cache[oldest].page, a->in, PAGE_SIZE);
	rom_cache[oldest].key = key;
	rom_cache[oldest].used = ++rom_clock;
	return (0);
}

static int
rom_map(struct args *a, struct vm *vm)
{
	unsigned pages = (unsigned)(a->left / 8);

	if (vm->rom_pages != 0 || pages == 0 || pages > ROM_PAGES_MAX)
		return (EINVAL);
	for (unsigned n = 0; n < pages; n++) {
		uint64_t key;

		memcpy(&key, a->in + 8 * n, 8);
		if (key != 0 && rom_find(key) == NULL) {
			give64(a, key);
			return (ENOENT);
		}
	}
	for (unsigned n = 0; n < pages; n++) {
		uint64_t key = take(a, 8);

		vm->rom[n] = contigalloc(1);
		if (vm->rom[n] == NULL)
			return (ENOMEM);
		if (key != 0)
			memcpy(vm->rom[n], rom_find(key), PAGE_SIZE);
		vm->rom_pages = n + 1;
	}
	return (0);
}

/* --- the machine ------------------------------------------------------------------------------------------ */

static int
hello(struct args *a)
{
	uint32_t regs[4], brand[12] = { 0 };

	give32(a, CTL_VERSION);
	cpuid_count(0, 0, regs);
	give32(a, regs[1] == 0x756e6547 ? 1 : 2);
	give32(a, MAXCPU);
	give32(a, regs[1]);
	give32(a, regs[3]);
	give32(a, regs[2]);
	cpuid_count(1, 0, regs);
	give32(a, regs[0]);
	for (unsigned n = 0; n < 3; n++)
		cpuid_count(0x80000002 + n, 0, &brand[4 * n]);
	give(a, brand, sizeof(brand));
	cpuid_count(0x80000000, 0, regs);
	if (regs[0] >= 0x8000000a)
		cpuid_count(0x8000000a, 0, regs);
	else
		regs[1] = regs[3] = 0;
	give32(a, regs[3]);
	give32(a, regs[1]);
	give64(a, rdtsc());
	return (0);
}

static void
give_state(struct args *a, const struct host_debug_state *state)
{
	for (int n = 0; n < 4; n++)
		give64(a, state->dr[n]);
	give64(a, state->dr6);
	give64(a, state->dr7);
	give64(a, state->debugctl);
}

static int
witness(struct args *a, uint8_t code)
{
	struct host_debug_state state;
	struct pcpu *pc;
	uint32_t cpu = (uint32_t)take(a, 4), msr;
	uint64_t value;
	int error = 0;

	if (a->bad || cpu >= MAXCPU)
		return (EINVAL);
	sched_bind((int)cpu);
	pc = curpcpu();
	switch (code) {
	case CTL_WITNESS_PLANT:
		for (int n = 0; n < 4; n++)
			state.dr[n] = take(a, 8);
		state.dr6 = take(a, 8);
		state.dr7 = take(a, 8);
		state.debugctl = take(a, 8);
		if (!a->bad)
			witness_plant(&state);
		/* FALLTHROUGH */
	case CTL_WITNESS_READ:
		witness_read(&state);
		give_state(a, &state);
		break;
	case CTL_WITNESS_TOUCH:
		give64(a, witness_touch((uint32_t)take(a, 4)));
		break;
	case CTL_WITNESS_STEP:
		if (take(a, 4) != 0) {
			pc->pc_steps = pc->pc_tf_lost = pc->pc_entries = 0;
			pc->pc_step = true;
			apic_timer_start(STEP_TICKS);
		} else {
			pc->pc_step = false;
			apic_timer_start(1);
		}
		give64(a, pc->pc_steps);
		give64(a, pc->pc_tf_lost);
		give64(a, pc->pc_entries);
		break;
	case CTL_MSR_READ:
		msr = (uint32_t)take(a, 4);
		error = rdmsr_safe(msr, &value);
		if (error == 0)
			give64(a, value);
		break;
	case CTL_MSR_WRITE:
		msr = (uint32_t)take(a, 4);
		error = wrmsr_safe(msr, take(a, 8));
		break;
	case CTL_CPUID: {
		uint32_t leaf = (uint32_t)take(a, 4), regs[4];

		cpuid_count(leaf, (uint32_t)take(a, 4), regs);
		give(a, regs, sizeof(regs));
		break;
	}
	}
	sched_bind(0);
	return (a->bad ? EINVAL : error);
}

static void
take_pcb(struct args *a, struct pcb *pcb)
{
	memset(pcb, 0, sizeof(*pcb));
	pcb->pcb_dr0 = take(a, 8);
	pcb->pcb_dr1 = take(a, 8);
	pcb->pcb_dr2 = take(a, 8);
	pcb->pcb_dr3 = take(a, 8);
	pcb->pcb_dr6 = take(a, 8);
	pcb->pcb_dr7 = take(a, 8);
}

static void
give_pcb(struct args *a, const struct pcb *pcb)
{
	give64(a, pcb->pcb_dr0);
	give64(a, pcb->pcb_dr1);
	give64(a, pcb->pcb_dr2);
	give64(a, pcb->pcb_dr3);
	give64(a, pcb->pcb_dr6);
	give64(a, pcb->pcb_dr7);
}

static int
sentinel(struct args *a, uint8_t code)
{
	uint32_t id = (uint32_t)take(a, 4), cpu;
	struct thread final;
	uint64_t address = 0;
	struct pcb pcb;
	int error;

	if (code == CTL_SENTINEL_START) {
		cpu = (uint32_t)take(a, 4);
		take_pcb(a, &pcb);
		if (a->bad || cpu >= MAXCPU)
			return (EINVAL);
		error = sentinel_start(id, (int)cpu, &pcb, (uint32_t)take(a, 4), &address);
		give64(a, address);
		return (error);
	}
	error = sentinel_stop(id, &final);
	if (error == 0) {
		give64(a, final.td_touches);
		give64(a, final.td_hits);
		give64(a, final.td_foreign);
		give_pcb(a, &final.td_pcb);
	}
	return (error);
}

/* PT_SETDBREGS and PT_GETDBREGS on the vCPU thread: the thread is off its CPU while its copy is touched. */
static int
dbregs(struct args *a, struct vm *vm, uint8_t code)
{
	uint32_t vcpuid = (uint32_t)take(a, 4);
	struct thread *td = bhyve_thread(vm, vcpuid);
	bool stopped;

	if (td == NULL)
		return (ENOENT);
	vcpu_freeze(vm->vcpus[vcpuid]);
	stopped = td->td_stopped;
	td->td_stopped = true;
	while (td->td_oncpu != -1)
		sched_wait();
	if (code == CTL_SETDBREGS) {
		take_pcb(a, &td->td_pcb);
		td->td_pcb.pcb_flags = PCB_DBREGS;
	} else {
		give_pcb(a, &td->td_pcb);
	}
	td->td_stopped = stopped;
	vcpu_thaw(vm->vcpus[vcpuid]);
	return (a->bad ? EINVAL : 0);
}

static int
fbt(struct args *a, uint8_t code)
{
	struct fbt_sites sites;
	struct fbt_counts counts;
	struct fbt_record records[4];
	uint64_t start;
	uint32_t id = 0, size, patched;
	size_t n, left;
	int error;

	if (code != CTL_FBT_LIST)
		id = (uint32_t)take(a, 4);
	switch (code) {
	case CTL_FBT_LIST:
		start = take(a, 8);
		size = (uint32_t)take(a, 4);
		if (a->bad)
			return (EINVAL);
		fbt_sites(start, size, &sites);
		give(a, &sites, 8 + 4 * sites.returns);
		return (0);
	case CTL_FBT_ENABLE:
		start = take(a, 8);
		size = (uint32_t)take(a, 4);
		error = a->bad ? EINVAL : fbt_enable(id, start, size, (uint32_t)take(a, 4), &patched);
		if (error == 0)
			give32(a, patched);
		return (error);
	case CTL_FBT_READ:
		left = CTL_BODY_MAX / sizeof(records[0]) - 1;
		left = id < left ? id : left;
		while (left != 0 && (n = fbt_read(records, left < nitems(records) ? left : nitems(records))) != 0) {
			give(a, records, n * sizeof(records[0]));
			left -= n;
		}
		return (0);
	default:
		error = code == CTL_FBT_DISABLE ? fbt_disable(id, &counts) : fbt_counts(id, &counts);
		if (error == 0)
			give(a, &counts, sizeof(counts));
		return (error);
	}
}

static void
hang(void *arg)
{
	(void)arg;
	cpu_stop();
}

static int
misbehave(uint32_t kind)
{
	static const struct region_descriptor none;

	switch (kind) {
	case 1:
		panic("panic requested");
	case 2:
		printf("hang requested\n");
		smp_rendezvous(hang, NULL);
		return (0);
	case 3:
		__asm__ __volatile__("lidt %0; ud2" : : "m"(none));
	}
	return (EINVAL);
}

/* --- virtual machines ------------------------------------------------------------------------------------ */

static int
memory(struct args *a, struct vm *vm, uint8_t code)
{
	uint64_t gpa = take(a, 8);
	size_t length = code == CTL_VM_READ ? (size_t)take(a, 4) : a->left;
	uint8_t *page;

	if (a->bad || length > PAGE_SIZE)
		return (EINVAL);
	while (length != 0) {
		size_t offset = gpa % PAGE_SIZE, piece = PAGE_SIZE - offset < length ? PAGE_SIZE - offset : length;

		page = vm_gpa_page(vm, gpa - offset, code == CTL_VM_WRITE);
		if (page == NULL)
			return (EFAULT);
		if (code == CTL_VM_READ) {
			give(a, page + offset, piece);
		} else {
			memcpy(page + offset, a->in, piece);
			a->in += piece;
		}
		gpa += piece;
		length -= piece;
	}
	return (0);
}

static int
register_access(struct args *a, struct vm *vm, uint8_t code)
{
	struct seg_desc desc;
	uint64_t value = 0;
	struct vcpu *vcpu = vm_vcpu(vm, (uint32_t)take(a, 4));
	int error, reg, integer = 0;

	if (vcpu == NULL)
		return (EINVAL);
	reg = (int)take(a, 4);
	vcpu_freeze(vcpu);
	switch (code) {
	case CTL_GET_REG:
		error = vm_get_register(vcpu, reg, &value);
		give64(a, value);
		break;
	case CTL_SET_REG:
		error = vm_set_register(vcpu, reg, take(a, 8));
		break;
	case CTL_GET_DESC:
		error = vm_get_desc(vcpu, reg, &desc);
		give64(a, desc.base);
		give32(a, desc.limit);
		give32(a, desc.access);
		break;
	case CTL_SET_DESC:
		desc.base = take(a, 8);
		desc.limit = (uint32_t)take(a, 4);
		desc.access = (uint32_t)take(a, 4);
		error = vm_set_desc(vcpu, reg, &desc);
		break;
	case CTL_GET_CAP:
		error = vm_get_capability(vcpu, reg, &integer);
		give32(a, (uint32_t)integer);
		break;
	default:
		error = vm_set_capability(vcpu, reg, (int)take(a, 4));
		break;
	}
	vcpu_thaw(vcpu);
	return (a->bad ? EINVAL : error);
}

static void
statistics(struct args *a, const struct vcpu *vcpu)
{
	char line[96];

	for (int n = 0; n < VMM_STAT_COUNT; n++) {
		const char *name = vmm_stat_name((enum vmm_stat)n);

		if (name != NULL)
			give(a, line, (size_t)snprintf(line, sizeof(line), "%s\t%lu\n", name, vcpu->stats[n]));
	}
}

static int
run(struct args *a, struct vm *vm)
{
	uint32_t ncpu = (uint32_t)take(a, 4), flags = (uint32_t)take(a, 4);
	int32_t pins[VM_MAXCPU];

	if (a->bad || ncpu == 0 || ncpu > VM_MAXCPU)
		return (EINVAL);
	for (uint32_t n = 0; n < ncpu; n++)
		pins[n] = (int32_t)take(a, 4);
	return (a->bad ? EINVAL : bhyve_start(vm, ncpu, flags, pins));
}

static int
pin(struct args *a, struct vm *vm)
{
	struct thread *td = bhyve_thread(vm, (uint32_t)take(a, 4));
	uint32_t mask;

	mask = (uint32_t)take(a, 4) & ((1u << MAXCPU) - 1);
	if (a->bad || mask == 0)
		return (EINVAL);
	if (td == NULL)
		return (ENOENT);
	thread_setcpu(td, mask);
	return (0);
}

static int
vcpu_request(uint8_t code, struct args *a, struct vm *vm)
{
	struct vcpu *vcpu = vm_vcpu(vm, (uint32_t)take(a, 4));

	if (vcpu == NULL)
		return (EINVAL);
	switch (code) {
	case CTL_INJECT_NMI:
		vcpu->nmi_pending = true;
		vcpu_notify(vcpu);
		break;
	case CTL_GET_STATS:
		statistics(a, vcpu);
		break;
	default:
		give32(a, vcpu->exitinfo.exitcode);
		give32(a, (uint32_t)vcpu->hostcpu);
		give32(a, vcpu->running);
		give64(a, vcpu->stats[VMEXIT_COUNT]);
		break;
	}
	return (0);
}

static int
vm_request(uint8_t code, struct args *a)
{
	struct vm *vm = take_vm(a);

	if (a->bad)
		return (EINVAL);
	if (vm == NULL)
		return (ENOENT);
	switch (code) {
	case CTL_VM_DESTROY:
		return (vm_destroy(vm));
	case CTL_VM_SETMEM:
		return (vm_setmem(vm, take(a, 8)));
	case CTL_VM_READ:
	case CTL_VM_WRITE:
		return (memory(a, vm, code));
	case CTL_ROM_MAP:
		return (rom_map(a, vm));
	case CTL_VM_REINIT:
		bhyve_kill(vm);
		return (vm_reinit(vm));
	case CTL_RUN:
		return (run(a, vm));
	case CTL_KILL:
		bhyve_kill(vm);
		return (0);
	case CTL_SUSPEND:
		return (vm_suspend(vm, (enum vm_suspend_how)take(a, 4)));
	case CTL_CONSOLE_IN:
		give32(a, (uint32_t)bhyve_console_in(vm, a->in, a->left));
		return (0);
	case CTL_PIN:
		return (pin(a, vm));
	case CTL_STOP:
		if (bhyve_thread(vm, 0) == NULL)
			return (ENOENT);
		bhyve_stop(vm, take(a, 4) != 0);
		return (0);
	case CTL_INJECT_NMI:
	case CTL_GET_STATS:
	case CTL_GET_STATE:
		return (vcpu_request(code, a, vm));
	case CTL_SETDBREGS:
	case CTL_GETDBREGS:
		return (dbregs(a, vm, code));
	default:
		return (code >= CTL_GET_REG && code <= CTL_SET_CAP ? register_access(a, vm, code) : EINVAL);
	}
}

int
ctl_request(uint8_t code, const uint8_t *in, size_t length, uint8_t *out, size_t *used)
{
	struct args a = { in, length, out, used, false };
	char text[512];
	int error;

	switch (code) {
	case CTL_HELLO:
		return (hello(&a));
	case CTL_MODLOAD:
		return (vmm_modload((const char *)in));
	case CTL_MODUNLOAD:
		return (vmm_modunload());
	case CTL_SYSCTL:
		error = vmm_sysctl((const char *)in, text, sizeof(text));
		if (error == 0)
			give(&a, text, strlen(text));
		return (error);
	case CTL_VM_CREATE:
		memset(text, 0, NAME);
		memcpy(text, in, length < NAME ? length : NAME - 1);
		return (vm_create(text, NULL));
	case CTL_VM_LIST:
		vm_list(text, sizeof(text));
		give(&a, text, strlen(text));
		return (0);
	case CTL_ROM_PAGE:
		return (rom_page(&a));
	case CTL_WITNESS_PLANT:
	case CTL_WITNESS_READ:
	case CTL_WITNESS_TOUCH:
	case CTL_WITNESS_STEP:
	case CTL_MSR_READ:
	case CTL_MSR_WRITE:
	case CTL_CPUID:
		return (witness(&a, code));
	case CTL_SENTINEL_START:
	case CTL_SENTINEL_STOP:
		return (sentinel(&a, code));
	case CTL_WITNESS_ADDRESS:
		give64(&a, (uint64_t)(uintptr_t)&witness_variable);
		return (0);
	case CTL_FBT_LIST:
	case CTL_FBT_ENABLE:
	case CTL_FBT_READ:
	case CTL_FBT_DISABLE:
	case CTL_FBT_COUNTS:
		return (fbt(&a, code));
	case CTL_MISBEHAVE:
		return (misbehave((uint32_t)take(&a, 4)));
	default:
		return (vm_request(code, &a));
	}
}
