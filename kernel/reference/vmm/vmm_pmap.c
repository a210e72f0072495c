/*
 * Nested page tables, four levels of 4 KiB pages: VT-x' EPT (SDM volume 3, 29.3.2) or the long-mode tables that SVM's
 * nested paging takes (APM volume 2, 15.25). Pages are only ever added while a guest runs; removing changes the
 * generation, upon which the vendor's code drops old translations.
 */
#include "vmm_internal.h"

#define LEVELS		4
#define INDEX(gpa, level)	(((gpa) >> (12 + 9 * (level))) & 511)
#define FRAME_MASK	0x000ffffffffff000ull
#define PTE_SHARED	(1ull << 55)		/* ignored by the processor in either format */

#define EPT_R		(1ull << 0)
#define EPT_W		(1ull << 1)
#define EPT_X		(1ull << 2)
#define EPT_MEMORY_WB	(6ull << 3)
#define EPTP_WB		6ull
#define EPTP_WALK_4	(3ull << 3)

#define NPT_P		(1ull << 0)
#define NPT_W		(1ull << 1)
#define NPT_U		(1ull << 2)
#define NPT_NX		(1ull << 63)

struct pmap {
	enum pmap_type type;
	uint64_t *root;
	volatile long eptgen;
	uint64_t resident;
	struct mtx mtx;
};

struct pmap *
pmap_alloc(enum pmap_type type)
{
	struct pmap *pmap = kzalloc(sizeof(*pmap));

	if (pmap == NULL)
		return (NULL);
	pmap->type = type;
	pmap->eptgen = 1;
	pmap->root = contigalloc(1);
	if (pmap->root == NULL) {
		kfree(pmap);
		return (NULL);
	}
	return (pmap);
}

static void
free_tables(struct pmap *pmap, uint64_t *table, int level)
{
	for (unsigned i = 0; i < 512; i++) {
		uint64_t entry = table[i];

		if (entry == 0)
			continue;
		if (level > 0)
			free_tables(pmap, (uint64_t *)(uintptr_t)(entry & FRAME_MASK), level - 1);
		else if ((entry & PTE_SHARED) == 0)
			contigfree((void *)(uintptr_t)(entry & FRAME_MASK), 1);
	}
	contigfree(table, 1);
}

void
pmap_free(struct pmap *pmap)
{
	free_tables(pmap, pmap->root, LEVELS - 1);
	kfree(pmap);
}

/* The leaf entry, its tables made on the way if `create`. */
static uint64_t *
pmap_pte(struct pmap *pmap, uint64_t gpa, bool create)
{
	uint64_t *table = pmap->root;

	for (int level = LEVELS - 1; level > 0; level--) {
		uint64_t *entry = &table[INDEX(gpa, level)];

		if (*entry == 0) {
			uint64_t *next = create ? contigalloc(1) : NULL;

			if (next == NULL)
				return (NULL);
			*entry = vtophys(next) |
			    (pmap->type == PT_EPT ? EPT_R | EPT_W | EPT_X : NPT_P | NPT_W | NPT_U);
		}
		table = (uint64_t *)(uintptr_t)(*entry & FRAME_MASK);
	}
	return (&table[INDEX(gpa, 0)]);
}

static uint64_t
pte_bits(enum pmap_type type, int prot)
{
	uint64_t bits;

	if (type == PT_EPT) {
		bits = EPT_MEMORY_WB | EPT_R;
		if ((prot & VM_PROT_WRITE) != 0)
			bits |= EPT_W;
		if ((prot & VM_PROT_EXECUTE) != 0)
			bits |= EPT_X;
	} else {
		bits = NPT_P | NPT_U;
		if ((prot & VM_PROT_WRITE) != 0)
			bits |= NPT_W;
		if ((prot & VM_PROT_EXECUTE) == 0)
			bits |= NPT_NX;
	}
	return (bits);
}

int
pmap_enter(struct pmap *pmap, uint64_t gpa, void *page, int prot, bool shared)
{
	uint64_t *pte;

	mtx_lock_spin(&pmap->mtx);
	pte = pmap_pte(pmap, gpa, true);
	if (pte == NULL) {
		mtx_unlock_spin(&pmap->mtx);
		return (ENOMEM);
	}
	KASSERT(*pte == 0, "pmap_enter: %#lx is mapped already", gpa);
	*pte = vtophys(page) | pte_bits(pmap->type, prot) | (shared ? PTE_SHARED : 0);
	if (!shared)
		pmap->resident++;
	mtx_unlock_spin(&pmap->mtx);
	return (0);
}

void
pmap_remove(struct pmap *pmap, uint64_t start, uint64_t end)
{
	mtx_lock_spin(&pmap->mtx);
	for (uint64_t gpa = start; gpa < end; gpa += PAGE_SIZE) {
		uint64_t *pte = pmap_pte(pmap, gpa, false);

		if (pte == NULL || *pte == 0)
			continue;
		if ((*pte & PTE_SHARED) == 0) {
			contigfree((void *)(uintptr_t)(*pte & FRAME_MASK), 1);
			pmap->resident--;
		}
		*pte = 0;
	}
	pmap->eptgen++;
	mtx_unlock_spin(&pmap->mtx);
}

void *
pmap_extract(struct pmap *pmap, uint64_t gpa, int *prot)
{
	uint64_t *pte, entry;

	mtx_lock_spin(&pmap->mtx);
	pte = pmap_pte(pmap, gpa, false);
	entry = pte == NULL ? 0 : *pte;
	mtx_unlock_spin(&pmap->mtx);
	if (entry == 0)
		return (NULL);
	if (prot != NULL) {
		*prot = VM_PROT_READ | VM_PROT_EXECUTE;
		if ((entry & (pmap->type == PT_EPT ? EPT_W : NPT_W)) != 0)
			*prot |= VM_PROT_WRITE;
	}
	return ((void *)(uintptr_t)(entry & FRAME_MASK));
}

uint64_t
pmap_resident(const struct pmap *pmap)
{
	return (pmap->resident);
}

uint64_t
pmap_root(const struct pmap *pmap)
{
	return (vtophys(pmap->root));
}

uint64_t
pmap_eptp(const struct pmap *pmap)
{
	return (vtophys(pmap->root) | EPTP_WB | EPTP_WALK_4);
}

long
pmap_eptgen(const struct pmap *pmap)
{
	return (pmap->eptgen);
}
