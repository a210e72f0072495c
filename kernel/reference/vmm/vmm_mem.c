/* Memory of a VM: RAM that comes into being at its first touch, and the boot ROM that ends at 4 GiB. */
#include "vmm_internal.h"

#define ROM_END		(1ull << 32)
/*
 * Where firmware works, a fault brings the pages around it along, as vm_fault_prefault() does with those that are
 * resident. Above, every page is a fault of its own: programs touch memory there to have one.
 */
#define LOW_MEMORY	0x400000ull
#define FAULT_AROUND	(16 * PAGE_SIZE)

void
vm_free_ram(struct vm *vm)
{
	if (vm->ram == NULL)
		return;
	for (uint64_t n = 0, left = vm->ram_pages; left != 0; n++)
		if (vm->ram[n] != NULL) {
			contigfree(vm->ram[n], 1);
			left--;
		}
	vm->ram_pages = 0;
	kfree(vm->ram);
	vm->ram = NULL;
}

int
vm_setmem(struct vm *vm, uint64_t bytes)
{
	if (vm->ram != NULL)
		return (vm->memsize == bytes ? 0 : EINVAL);
	vm->ram = kzalloc(bytes / PAGE_SIZE * sizeof(void *));
	if (vm->ram == NULL)
		return (ENOMEM);
	vm->memsize = bytes;
	return (0);
}

static void **
ram_slot(struct vm *vm, uint64_t gpa)
{
	return (gpa < vm->memsize ? &vm->ram[gpa / PAGE_SIZE] : NULL);
}

static void *
rom_page(struct vm *vm, uint64_t gpa)
{
	uint64_t start = ROM_END - (uint64_t)vm->rom_pages * PAGE_SIZE;

	return (gpa >= start && gpa < ROM_END ? vm->rom[(gpa - start) / PAGE_SIZE] : NULL);
}

void *
vm_gpa_page(struct vm *vm, uint64_t gpa, bool write)
{
	void **slot = ram_slot(vm, gpa);

	if (slot == NULL)
		return (write ? NULL : rom_page(vm, gpa));
	if (*slot == NULL) {
		mtx_lock_spin(&vm->mtx);
		if (*slot == NULL && (*slot = contigalloc(1)) != NULL)
			vm->ram_pages++;
		mtx_unlock_spin(&vm->mtx);
	}
	return (*slot);
}

/* Map one page of RAM or ROM; 0 or ENOMEM. */
static int
enter(struct vm *vm, uint64_t gpa)
{
	int prot = VM_PROT_READ | VM_PROT_EXECUTE, error;
	void *page = rom_page(vm, gpa);

	if (page == NULL) {
		page = vm_gpa_page(vm, gpa, true);
		prot |= VM_PROT_WRITE;
	}
	if (page == NULL)
		return (ENOMEM);
	mtx_lock_spin(&vm->mtx);
	error = pmap_enter(vm->pmap, gpa, vtophys(page), prot);
	mtx_unlock_spin(&vm->mtx);
	return (error);
}

/* A nested page fault in memory: 0, EFAULT for a store to ROM, ENOMEM. */
int
vm_handle_paging(struct vcpu *vcpu)
{
	const struct vm_exit *vme = &vcpu->exitinfo;
	uint64_t gpa = trunc_page(vme->u.paging.gpa), start, end;
	struct vm *vm = vcpu->vm;
	bool rom = rom_page(vm, gpa) != NULL;
	int error = 0;

	if (rom && (vme->u.paging.fault_type & VM_PROT_WRITE) != 0)
		return (EFAULT);
	if (!rom && gpa >= LOW_MEMORY)
		return (enter(vm, gpa));
	start = gpa & ~(FAULT_AROUND - 1ull);
	end = start + FAULT_AROUND;
	for (uint64_t near = start; near < end && error == 0; near += PAGE_SIZE)
		if (near == gpa || (rom ? rom_page(vm, near) != NULL : near < vm->memsize))
			error = enter(vm, near);
	return (error);
}

bool
vm_mem_allocated(struct vcpu *vcpu, uint64_t gpa)
{
	return (ram_slot(vcpu->vm, gpa) != NULL || rom_page(vcpu->vm, gpa) != NULL);
}
