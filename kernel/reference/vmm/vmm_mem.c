/*
 * Guest memory: RAM that comes into being at its first touch, and a boot ROM of pages that VMs share, kept by key so
 * that the same runtime does not cross the control channel for every guest.
 */
#include "vmm_internal.h"

#define ROM_CACHE_PAGES	128
#define ROM_END		(1ull << 32)

struct rom_page {
	uint64_t key;			/* 0 = free */
	uint64_t used;			/* for least recently used */
	uint32_t mapped;		/* by this many VMs */
	uint8_t *page;
};

static struct rom_page rom_cache[ROM_CACHE_PAGES];
static uint64_t rom_clock;
static uint8_t *zero_page;
static struct mtx rom_mtx;

bool
vm_is_ram(const struct vm *vm, uint64_t gpa)
{
	uint64_t low = vm->memsize < GUEST_LOWMEM_LIMIT ? vm->memsize : GUEST_LOWMEM_LIMIT;

	return (gpa < low || (gpa >= ROM_END && gpa < ROM_END + (vm->memsize - low)));
}

bool
vm_mem_allocated(struct vcpu *vcpu, uint64_t gpa)
{
	struct vm *vm = vcpu->vm;

	return (vm_is_ram(vm, gpa) || pmap_extract(vm->pmap, gpa, NULL) != NULL);
}

uint8_t *
vm_page(struct vm *vm, uint64_t gpa, bool create)
{
	uint8_t *page;

	gpa = trunc_page(gpa);
	page = pmap_extract(vm->pmap, gpa, NULL);
	if (page != NULL || !create || !vm_is_ram(vm, gpa))
		return (page);
	/* Two vCPUs may want the same page: only one of them brings it. */
	mtx_lock_spin(&vm->mtx);
	page = pmap_extract(vm->pmap, gpa, NULL);
	if (page == NULL) {
		page = contigalloc(1);
		if (page != NULL &&
		    pmap_enter(vm->pmap, gpa, page, VM_PROT_READ | VM_PROT_WRITE | VM_PROT_EXECUTE, false) != 0) {
			contigfree(page, 1);
			page = NULL;
		}
	}
	mtx_unlock_spin(&vm->mtx);
	return (page);
}

int
vm_copy(struct vm *vm, uint64_t gpa, void *buf, size_t len, bool write)
{
	uint8_t *bytes = buf;

	while (len != 0) {
		size_t offset = gpa & PAGE_MASK;
		size_t n = PAGE_SIZE - offset < len ? PAGE_SIZE - offset : len;
		int prot = VM_PROT_READ | VM_PROT_WRITE;
		uint8_t *page = pmap_extract(vm->pmap, trunc_page(gpa), &prot);

		if (page == NULL) {
			if (!vm_is_ram(vm, gpa))
				return (EFAULT);
			if (write && (page = vm_page(vm, gpa, true)) == NULL)
				return (ENOMEM);
		} else if (write && (prot & VM_PROT_WRITE) == 0) {
			return (EFAULT);
		}
		if (write)
			memcpy(page + offset, bytes, n);
		else if (page != NULL)
			memcpy(bytes, page + offset, n);
		else
			memset(bytes, 0, n);
		gpa += n;
		bytes += n;
		len -= n;
	}
	return (0);
}

int
vm_handle_paging(struct vcpu *vcpu)
{
	const struct vm_exit *vme = &vcpu->exitinfo;
	uint64_t gpa = trunc_page(vme->u.paging.gpa);

	if (vm_is_ram(vcpu->vm, gpa))
		return (vm_page(vcpu->vm, gpa, true) != NULL ? 0 : ENOMEM);
	/* ROM is there from the start, so this is a store to it. */
	return (EFAULT);
}

static struct rom_page *
rom_find(uint64_t key)
{
	for (unsigned i = 0; i < ROM_CACHE_PAGES; i++) {
		if (rom_cache[i].key == key)
			return (&rom_cache[i]);
	}
	return (NULL);
}

int
rom_cache_page(uint64_t key, const void *bytes)
{
	struct rom_page *rom;

	if (key == 0)
		return (EINVAL);
	mtx_lock_spin(&rom_mtx);
	rom = rom_find(key);
	if (rom == NULL) {
		for (unsigned i = 0; i < ROM_CACHE_PAGES; i++) {
			struct rom_page *candidate = &rom_cache[i];

			if (candidate->mapped == 0 && (rom == NULL || candidate->used < rom->used))
				rom = candidate;
		}
		if (rom != NULL && rom->page == NULL)
			rom->page = contigalloc(1);
		if (rom == NULL || rom->page == NULL) {
			mtx_unlock_spin(&rom_mtx);
			return (ENOMEM);
		}
		memcpy(rom->page, bytes, PAGE_SIZE);
		rom->key = key;
	}
	rom->used = ++rom_clock;
	mtx_unlock_spin(&rom_mtx);
	return (0);
}

static struct rom_page *
rom_of_page(const void *page)
{
	for (unsigned i = 0; i < ROM_CACHE_PAGES; i++) {
		if (rom_cache[i].page == page)
			return (&rom_cache[i]);
	}
	return (NULL);
}

int
vm_map_rom(struct vm *vm, const uint64_t *keys, size_t count, uint64_t *missing)
{
	uint64_t base = ROM_END - count * PAGE_SIZE;
	int error = 0;

	if (count == 0 || count > GUEST_ROM_PAGES)
		return (EINVAL);
	for (size_t i = 0; i < count; i++) {
		if (keys[i] != 0 && rom_find(keys[i]) == NULL) {
			*missing = keys[i];
			return (ENOENT);
		}
	}
	vm_unmap_rom(vm);
	if (zero_page == NULL && (zero_page = contigalloc(1)) == NULL)
		return (ENOMEM);
	mtx_lock_spin(&rom_mtx);
	for (size_t i = 0; i < count && error == 0; i++) {
		struct rom_page *rom = keys[i] != 0 ? rom_find(keys[i]) : NULL;

		error = pmap_enter(vm->pmap, base + i * PAGE_SIZE, rom != NULL ? rom->page : zero_page,
		    VM_PROT_READ | VM_PROT_EXECUTE, true);
		if (error == 0 && rom != NULL) {
			rom->mapped++;
			rom->used = ++rom_clock;
		}
	}
	mtx_unlock_spin(&rom_mtx);
	return (error);
}

void
vm_unmap_rom(struct vm *vm)
{
	uint64_t start = ROM_END;

	mtx_lock_spin(&rom_mtx);
	/* The ROM is one piece that ends at 4 GiB. */
	for (;;) {
		void *page = pmap_extract(vm->pmap, start - PAGE_SIZE, NULL);
		struct rom_page *rom;

		if (page == NULL)
			break;
		rom = rom_of_page(page);
		if (rom != NULL)
			rom->mapped--;
		start -= PAGE_SIZE;
	}
	if (start != ROM_END)
		pmap_remove(vm->pmap, start, ROM_END);
	mtx_unlock_spin(&rom_mtx);
}
