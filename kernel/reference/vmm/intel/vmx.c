#include "vmm.h"

static int
vmx_modinit(void)
{
	return (ENXIO);
}

const struct vmm_ops vmm_ops_intel = { .modinit = vmx_modinit };
