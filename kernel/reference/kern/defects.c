/* The switches of the seeded defects, by name. */
#include "defects.h"
#include "kern.h"

bool defect_on[DEFECT_COUNT];

#define DEFECT(symbol)	#symbol,
static const char *const defect_symbols[DEFECT_COUNT] = {
#include "defects_core.def"
#include "defects_svm.def"
#include "defects_vmx.def"
};
#undef DEFECT

/* "svm-guest-dr-swapped" is the name of SVM_GUEST_DR_SWAPPED. */
static bool
names(const char *name, const char *symbol)
{
	for (; *symbol != '\0'; name++, symbol++) {
		char c = *symbol == '_' ? '-' : (char)(*symbol >= 'A' && *symbol <= 'Z' ? *symbol + 32 : *symbol);

		if (*name != c)
			return (false);
	}
	return (*name == '\0');
}

int
defect_enable(const char *name)
{
	for (int n = 0; n < DEFECT_COUNT; n++) {
		if (names(name, defect_symbols[n])) {
			defect_on[n] = true;
			return (0);
		}
	}
	return (ENOENT);
}

void
defects_clear(void)
{
	memset(defect_on, 0, sizeof(defect_on));
}
