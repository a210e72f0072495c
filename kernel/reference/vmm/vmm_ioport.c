/* Ports that the kernel handles: interrupt controllers and timer, as plain latches. */
#include "vmm_internal.h"

static const uint16_t kernel_ports[] = { 0x20, 0x21, 0xa0, 0xa1, 0x40, 0x41, 0x42, 0x43, 0x61 };

#define PORTS	(sizeof(kernel_ports) / sizeof(kernel_ports[0]))

static uint8_t latches[VM_MAX][PORTS];

/* Put what a port read gave into the guest's RAX: 1 or 2 bytes leave the rest alone, 4 clear the upper half. */
void
vm_inout_result(struct vcpu *vcpu, uint32_t value)
{
	static const uint64_t masks[5] = { 0, 0xff, 0xffff, 0, 0xffffffff };
	unsigned bytes = vcpu->exitinfo.u.inout.bytes;
	uint64_t rax;

	if (vm_get_register(vcpu, VM_REG_GUEST_RAX, &rax) != 0)
		return;
	rax = bytes == 4 ? value : (rax & ~masks[bytes]) | (value & masks[bytes]);
	(void)vm_set_register(vcpu, VM_REG_GUEST_RAX, rax);
}

bool
vm_handle_inout(struct vcpu *vcpu)
{
	const struct vm_exit *vme = &vcpu->exitinfo;

	for (unsigned n = 0; n < PORTS; n++) {
		uint8_t *latch = &latches[vcpu->vm - vms][n];

		if (kernel_ports[n] != vme->u.inout.port)
			continue;
		if (vme->u.inout.in)
			vm_inout_result(vcpu, *latch);
		else
			*latch = (uint8_t)vme->u.inout.eax;
		return (true);
	}
	return (false);
}
