/* Pages from 8 MiB to the end of the emulated RAM: a bitmap, first fit, always handed out zeroed. */
#include "kern.h"

#define POOL_START	0x800000ul
#define POOL_END	0x7f00000ul		/* 127 MiB of 128 */
#define POOL_PAGES	((POOL_END - POOL_START) / PAGE_SIZE)

static struct mtx mem_mtx;
static uint8_t used[POOL_PAGES];
static uint16_t kmalloc_pages[POOL_PAGES];	/* size of the allocation that starts at a page */
static unsigned hint;

void
mem_init(void)
{
	hint = 0;
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
