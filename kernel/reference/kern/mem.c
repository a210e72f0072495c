/* Pages from 8 MiB to the end of the emulated RAM: a bitmap, first fit, always handed out zeroed. */
#include "cpufunc.h"
#include "kern.h"

#define POOL_START	0x800000ul
#define POOL_END	0x7f00000ul		/* 127 MiB of 128 */
#define POOL_PAGES	((POOL_END - POOL_START) / PAGE_SIZE)

static struct mtx mem_mtx;
static uint8_t used[POOL_PAGES];
static uint16_t kmalloc_pages[POOL_PAGES];	/* size of the allocation that starts at a page */
static unsigned hint;

/*
 * The firmware's tables map 4 GiB. What is no memory goes, and the page at 0 with it, so that a pointer gone wrong is
 * a fault and not a silent store. Below 2 MiB only those tables and the start of the second processor are left.
 */
#define BOOT_DIRECTORIES	((uint64_t *)0x3000)	/* four pages, one entry for 2 MiB */
#define LARGE_PAGE		0x200000ul
#define LOW_START		0x1000ul
#define LOW_END			0x9000ul
#define IOAPIC_ENTRY		(0xfec00000ul / LARGE_PAGE)
#define APIC_ENTRY		(0xfee00000ul / LARGE_PAGE)
#define PTE_PRESENT_WRITABLE	0x3

static _Alignas(4096) uint64_t low_table[512];

void
mem_init(void)
{
	for (uint64_t address = LOW_START; address < LOW_END; address += PAGE_SIZE)
		low_table[address / PAGE_SIZE] = address | PTE_PRESENT_WRITABLE;
	BOOT_DIRECTORIES[0] = vtophys(low_table) | PTE_PRESENT_WRITABLE;
	for (uint64_t entry = (POOL_END + LARGE_PAGE - 1) / LARGE_PAGE; entry < 4 * 512; entry++) {
		if (entry != IOAPIC_ENTRY && entry != APIC_ENTRY)
			BOOT_DIRECTORIES[entry] = 0;
	}
	load_cr3(rcr3());
}

static unsigned
find(unsigned from, unsigned to, unsigned pages)
{
	unsigned run = 0;

	for (unsigned n = from; n < to; n++) {
		run = used[n] ? 0 : run + 1;
		if (run == pages)
			return (n + 1 - pages);
	}
	return (POOL_PAGES);
}

void *
contigalloc(unsigned pages)
{
	unsigned first;
	uint64_t *memory;

	mtx_lock_spin(&mem_mtx);
	first = find(hint, POOL_PAGES, pages);
	if (first == POOL_PAGES)
		first = find(0, POOL_PAGES, pages);
	if (first == POOL_PAGES) {
		mtx_unlock_spin(&mem_mtx);
		return (NULL);
	}
	for (unsigned n = 0; n < pages; n++)
		used[first + n] = 1;
	hint = first + pages;
	mtx_unlock_spin(&mem_mtx);
	memory = (uint64_t *)(POOL_START + (uint64_t)first * PAGE_SIZE);
	__asm__ __volatile__("rep stosq" : : "D"(memory), "c"((uint64_t)pages * PAGE_SIZE / 8), "a"(0ul) : "memory");
	return (memory);
}

void
contigfree(void *memory, unsigned pages)
{
	unsigned first = (unsigned)(((uint64_t)memory - POOL_START) / PAGE_SIZE);

	mtx_lock_spin(&mem_mtx);
	for (unsigned n = 0; n < pages; n++)
		used[first + n] = 0;
	if (first < hint)
		hint = first;
	mtx_unlock_spin(&mem_mtx);
}

void *
kzalloc(size_t size)
{
	unsigned pages = (unsigned)((size + PAGE_SIZE - 1) / PAGE_SIZE);
	void *memory = contigalloc(pages);

	if (memory != NULL)
		kmalloc_pages[((uint64_t)memory - POOL_START) / PAGE_SIZE] = (uint16_t)pages;
	return (memory);
}

void
kfree(void *memory)
{
	contigfree(memory, kmalloc_pages[((uint64_t)memory - POOL_START) / PAGE_SIZE]);
}
