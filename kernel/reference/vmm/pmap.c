/* Second-level page tables: EPT for VT-x, nested paging for SVM. Four levels of 4 KiB pages. */
#include "vm.h"

#define EPT_RWX		0x7ull
#define EPT_WB		(6ull << 3)
#define NPT_PWU		0x7ull			/* present, writable, user: SVM walks as CPL 3 */
#define NPT_NX		(1ull << 63)
#define NPT_W		0x2ull
#define ADDRESS		0x000ffffffffff000ull
#define LEVELS		4

struct pmap {
	bool ept;
	long eptgen;
	uint64_t *root;
};

struct pmap *
pmap_create(bool ept)
{
	struct pmap *pmap = kzalloc(sizeof(*pmap));

	if (pmap == NULL)
		return (NULL);
	pmap->ept = ept;
	pmap->eptgen = 1;
	pmap->root = contigalloc(1);
	if (pmap->root == NULL) {
		kfree(pmap);
		return (NULL);
	}
	return (pmap);
}

static void
free_level(uint64_t *table, int level)
{
	if (level > 1)
		for (int n = 0; n < 512; n++)
			if (table[n] != 0)
				free_level((uint64_t *)(uintptr_t)(table[n] & ADDRESS), level - 1);
	contigfree(table, 1);
}

void
pmap_destroy(struct pmap *pmap)
{
	free_level(pmap->root, LEVELS);
	kfree(pmap);
}

uint64_t
pmap_root(const struct pmap *pmap)
{
	return (vtophys(pmap->root));
}

/* Changes whenever translations that a processor may hold become wrong. */
long
pmap_eptgen(const struct pmap *pmap)
{
	return (pmap->eptgen);
}

static uint64_t
leaf(const struct pmap *pmap, uint64_t pa, int prot)
{
	if (pmap->ept)
		return (pa | EPT_WB | (uint64_t)(prot & 7));
	return (pa | (NPT_PWU & ~NPT_W) | ((prot & VM_PROT_WRITE) ? NPT_W : 0) | ((prot & VM_PROT_EXECUTE) ? 0 : NPT_NX));
}

/* Map one page; 0 or ENOMEM. */
int
pmap_enter(struct pmap *pmap, uint64_t gpa, uint64_t pa, int prot)
{
	uint64_t *table = pmap->root, *entry;

	for (int level = LEVELS; level > 1; level--) {
		entry = &table[gpa >> (12 + 9 * (level - 1)) & 511];
		if (*entry == 0) {
			void *page = contigalloc(1);

			if (page == NULL)
				return (ENOMEM);
			*entry = vtophys(page) | (pmap->ept ? EPT_RWX : NPT_PWU);
		}
		table = (uint64_t *)(uintptr_t)(*entry & ADDRESS);
	}
	entry = &table[gpa >> 12 & 511];
	/* Another vCPU may have been faster; the processor's accessed and dirty bits are its own. */
	if ((*entry & ADDRESS) == pa)
		return (0);
	if (*entry != 0)
		pmap->eptgen++;
	*entry = leaf(pmap, pa, prot);
	return (0);
}
