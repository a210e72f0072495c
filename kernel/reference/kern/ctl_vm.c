/* Requests about one virtual machine, by its name. */
#include "ctl.h"
#include "ctl_internal.h"
#include "vm.h"

#define NAME		VM_NAMELEN
#define ROM_CACHE	96

static void
take_name(struct args *a, char name[NAME])
{
	name[0] = '\0';
	if (a->left < NAME) {
		a->bad = true;
		return;
	}
	memcpy(name, a->in, NAME);
	name[NAME - 1] = '\0';
	a->in += NAME;
	a->left -= NAME;
}

static int
save(struct args *a, struct vm *vm)
{
	char file[NAME];

	take_name(a, file);
	return (a->bad ? EINVAL : vm_save(vm, file));
}

/* ROM pages, by a key that the other side makes of their contents. */

static struct { uint64_t key, used; void *page; } rom_cache[ROM_CACHE];
static uint64_t rom_clock;

/* Undo the run-length encoding that the console has, too: 0, count, byte. False unless it fills the page exactly. */
static bool
unpack_runs(uint8_t *to, size_t room, const uint8_t *from, size_t length)
{
	while (length != 0) {
		if (*from != 0) {
			if (room == 0)
				return (false);
			*to++ = *from++;
			room--;
			length--;
			continue;
		}
		if (length < 3 || from[1] > room)
			return (false);
		memset(to, from[2], from[1]);
		to += from[1];
		room -= from[1];
		from += 3;
		length -= 3;
	}
	return (room == 0);
}

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

int
ctl_rom_page(struct args *a)
{
	uint64_t key = take(a, 8);
	int oldest = 0;

	if (a->bad)
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
	/* Damaged or half filled, it is nobody's page. */
	rom_cache[oldest].key = 0;
	if (!unpack_runs(rom_cache[oldest].page, PAGE_SIZE, a->in, a->left))
		return (EINVAL);
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

/* PT_SETDBREGS, PT_GETDBREGS, PT_GETFSBASE and PT_GETGSBASE on the vCPU thread: the thread is off its CPU while its copy is touched. */
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
		ctl_take_pcb(a, &td->td_pcb);
		td->td_pcb.pcb_flags |= PCB_DBREGS;
	} else if (code == CTL_GETBASES) {
		give64(a, td->td_pcb.pcb_fsbase);
		give64(a, td->td_pcb.pcb_gsbase);
	} else {
		ctl_give_pcb(a, &td->td_pcb);
	}
	td->td_stopped = stopped;
	vcpu_thaw(vm->vcpus[vcpuid]);
	return (a->bad ? EINVAL : 0);
}

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

int
ctl_vm_request(uint8_t code, struct args *a)
{
	char name[NAME], file[NAME];
	struct vm *vm;

	take_name(a, name);
	if (code == CTL_VM_RESTORE)
		take_name(a, file);
	if (a->bad)
		return (EINVAL);
	if (code == CTL_VM_RESTORE)
		return (vm_restore(name, file));
	vm = vm_lookup(name);
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
	case CTL_VM_SAVE:
		return (save(a, vm));
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
	case CTL_THREAD:
		give64(a, (uint64_t)(uintptr_t)bhyve_thread(vm, (uint32_t)take(a, 4)));
		return (0);
	case CTL_STOP:
		if (bhyve_thread(vm, 0) == NULL)
			return (ENOENT);
		bhyve_stop(vm, take(a, 4) != 0);
		return (0);
	case CTL_DEBUG: {
		uint32_t vcpuid = (uint32_t)take(a, 4);

		return (bhyve_debug(vm, vcpuid, (uint32_t)take(a, 4)));
	}
	case CTL_INJECT_NMI:
	case CTL_GET_STATS:
	case CTL_GET_STATE:
		return (vcpu_request(code, a, vm));
	case CTL_SETDBREGS:
	case CTL_GETDBREGS:
	case CTL_GETBASES:
		return (dbregs(a, vm, code));
	default:
		return (code >= CTL_GET_REG && code <= CTL_SET_CAP ? register_access(a, vm, code) : EINVAL);
	}
}
