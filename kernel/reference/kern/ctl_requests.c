/* What the control channel can ask for. */
#include "ctl.h"
#include "ctl_internal.h"
#include "vm.h"

int
ctl_request(uint8_t code, const uint8_t *in, size_t length, uint8_t *out, size_t *used)
{
	struct args a = { in, length, out, used, false };
	char text[512];
	int error;

	if (ctl_host_request(code, &a, &error))
		return (error);
	switch (code) {
	case CTL_MODLOAD:
		return (vmm_modload((const char *)in));
	case CTL_MODUNLOAD:
		return (vmm_modunload());
	case CTL_SYSCTL:
		error = vmm_sysctl((const char *)in, text, sizeof(text));
		if (error == 0)
			give(&a, text, strlen(text));
		return (error);
	case CTL_VM_CREATE:
		memset(text, 0, VM_NAMELEN);
		memcpy(text, in, length < VM_NAMELEN ? length : VM_NAMELEN - 1);
		return (vm_create(text, NULL));
	case CTL_VM_LIST:
		vm_list(text, sizeof(text));
		give(&a, text, strlen(text));
		return (0);
	case CTL_ROM_PAGE:
		return (ctl_rom_page(&a));
	default:
		return (ctl_vm_request(code, &a));
	}
}
