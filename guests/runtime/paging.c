/* Page tables as programs may change them: 2 MiB pages, two address spaces. */
#include "runtime.h"

#define TABLES      6           /* PML4, PDPT, four page directories */
#define ENTRIES     512
#define PAGE_2M     0x80
#define ADDRESS     0x000FFFFFFFFFF000UL

static uint64_t *
entry_of(uint64_t tables, uint64_t linear)
{
	return ((uint64_t *)(tables + 0x2000) + (linear >> 21) % (4 * ENTRIES));
}

static void
make_second(void)
{
	static int made;
	const uint64_t *from = (const uint64_t *)PAGE_TABLES;
	uint64_t *to = (uint64_t *)PAGE_TABLES_SECOND;

	if (made)
		return;
	made = 1;
	for (unsigned n = 0; n < TABLES * ENTRIES; n++)
		to[n] = from[n];
	to[0] += PAGE_TABLES_SECOND - PAGE_TABLES;
	for (unsigned n = 0; n < 4; n++)
		to[ENTRIES + n] += PAGE_TABLES_SECOND - PAGE_TABLES;
}

/* OP_MAP: one 2 MiB page of address space 0 or 1. */
void
map_page(unsigned space, unsigned flags, uint64_t linear, uint64_t physical)
{
	make_second();
	*entry_of(space ? PAGE_TABLES_SECOND : PAGE_TABLES, linear) =
	    (physical & ~0x1FFFFFUL) | PAGE_2M | (flags & (MAP_PRESENT | MAP_WRITABLE | MAP_USER));
	__asm__ volatile("invlpg (%0)" : : "r"(linear) : "memory");
}

/* HANDLER_REPAIR: what makes a faulting access succeed when it is tried again. */
void
repair_page(uint64_t linear)
{
	uint64_t cr3;

	__asm__ volatile("movq %%cr3, %0" : "=r"(cr3));
	*entry_of(cr3 & ADDRESS, linear) |= MAP_PRESENT | MAP_WRITABLE | MAP_USER;
	__asm__ volatile("invlpg (%0)" : : "r"(linear) : "memory");
}
