/*
 * Seeded defects. One line each in defects_{core,svm,vmx}.def: DEFECT(SVM_GUEST_DR_SWAPPED) is
 * defect(DEFECT_SVM_GUEST_DR_SWAPPED) in the code and "svm-guest-dr-swapped" in defects.toml, which says what
 * each one violates. All are off unless MODLOAD switches them on.
 */
#ifndef DEFECTS_H
#define DEFECTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEFECT(symbol)	DEFECT_##symbol,
enum defect_id {
#include "defects_core.def"
#include "defects_svm.def"
#include "defects_vmx.def"
	DEFECT_COUNT
};
#undef DEFECT

extern bool defect_on[];

static inline bool
defect(int id)
{
	return (defect_on[id]);
}

void	defects_clear(void);
/* ENOENT: there is no defect of that name. */
int	defect_enable(const char *name);

#endif
