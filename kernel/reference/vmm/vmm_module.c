/* The module as a whole: loading with its tunables and defects, unloading, sysctls. */
#include "cpufunc.h"
#include "defects.h"
#include "vmm_internal.h"

bool vmm_loaded;
const struct vmm_ops *vmm_ops;

static char tunables[512];

bool
tunable_fetch(const char *name, uint64_t *value)
{
	size_t length = strlen(name);

	for (const char *line = tunables; *line != '\0';) {
		if (strncmp(line, name, length) == 0 && line[length] == '=') {
			*value = strtou64(line + length + 1);
			return (true);
		}
		while (*line != '\0' && *line++ != '\n')
			;
	}
	return (false);
}

static bool
is_intel(void)
{
	uint32_t regs[4];

	cpuid_count(0, 0, regs);
	return (regs[1] == 0x756e6547);			/* "Genu" */
}

/* One line of what the loader found in the module file or in the kernel environment. */
static int
take_line(const char *line, size_t length)
{
	char word[96];

	if (length >= sizeof(word))
		return (EINVAL);
	memcpy(word, line, length);
	word[length] = '\0';
	if (strncmp(word, "tunable ", 8) == 0) {
		size_t used = strlen(tunables);

		snprintf(tunables + used, sizeof(tunables) - used, "%s\n", word + 8);
		return (0);
	}
	if (strncmp(word, "defect ", 7) == 0)
		return (defect_enable(word + 7));
	return (length == 0 ? 0 : EINVAL);
}

/* 0, EEXIST, EINVAL or ENOENT for text that is not understood, ENXIO without VT-x or SVM. */
int
vmm_modload(const char *text)
{
	int error = 0;

	if (vmm_loaded)
		return (EEXIST);
	tunables[0] = '\0';
	defects_clear();
	while (*text != '\0' && error == 0) {
		size_t length = 0;

		while (text[length] != '\0' && text[length] != '\n')
			length++;
		error = take_line(text, length);
		text += length + (text[length] == '\n');
	}
	if (error == 0) {
		vmm_ops = is_intel() ? &vmm_ops_intel : &vmm_ops_amd;
		error = vmm_ops->modinit();
	}
	if (error != 0)
		defects_clear();
	vmm_loaded = error == 0;
	return (error);
}

int
vmm_modunload(void)
{
	if (!vmm_loaded)
		return (ENOENT);
	for (int n = 0; n < VM_MAX; n++)
		if (vms[n].used)
			return (EBUSY);
	(void)vmm_ops->modcleanup();
	vmm_loaded = false;
	defects_clear();
	return (0);
}

/* What the kernel itself answers for; 0 or ENOENT. Values as decimal text, as sysctl prints them. */
int
vmm_sysctl(const char *name, char *out, size_t size)
{
	static const struct { const char *name; uint64_t value; } fixed[] = {
		{ "hw.vmm.halt_detection", 1 }, { "hw.vmm.trace_guest_exceptions", 0 }, { "hw.vmm.maxcpu", VM_MAXCPU },
	};
	uint64_t value;

	if (!vmm_loaded)
		return (ENOENT);
	if (vmm_ops->sysctl(name, out, size) == 0)
		return (0);
	for (unsigned n = 0; n < sizeof(fixed) / sizeof(fixed[0]); n++) {
		if (strcmp(name, fixed[n].name) == 0) {
			value = fixed[n].value;
			(void)tunable_fetch(name, &value);
			snprintf(out, size, "%lu", value);
			return (0);
		}
	}
	return (ENOENT);
}
