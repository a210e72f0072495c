/* Ports of the bhyve process: console, exit device, reset and power, and the rest that nobody listens to. */
#include "bhyve.h"

#define COM1		0x3f8
#define PORT_TESTDEV	0xf4
#define PORT_POST80	0x80		/* accepted even with -e */
#define PORT_POST84	0x84		/* registered for input only: output aborts the process */
#define PORT_RESET	0xcf9
#define RESET_CPU	0x04
#define PORT_KBC	0x64
#define KBC_RESET	0xfe
#define PORT_PM1A	0x404
#define SLP_EN_S5	0x3400

static enum inout_result
output(struct bhyve *bhyve, uint16_t port, uint32_t value, int *status)
{
	if ((bhyve->flags & RUN_COM1) && port >= COM1 && port < COM1 + 8) {
		mtx_lock_spin(&bhyve->mtx);
		uart_write(bhyve, port - COM1, (uint8_t)value);
		mtx_unlock_spin(&bhyve->mtx);
		return (INOUT_OK);
	}
	switch (port) {
	case PORT_TESTDEV:
		if (bhyve->flags & RUN_TESTDEV) {
			*status = (int)((value << 1 | 1) & 0xff);
			return (INOUT_EXIT);
		}
		break;
	case PORT_POST84:
		return (INOUT_ABORT);
	case PORT_RESET:
		if (value & RESET_CPU)
			(void)vm_suspend(bhyve->vm, VM_SUSPEND_RESET);
		return (INOUT_OK);
	case PORT_KBC:
		if ((value & 0xff) == KBC_RESET)
			(void)vm_suspend(bhyve->vm, VM_SUSPEND_RESET);
		return (INOUT_OK);
	case PORT_PM1A:
		if ((value & SLP_EN_S5) == SLP_EN_S5)
			(void)vm_suspend(bhyve->vm, VM_SUSPEND_POWEROFF);
		return (INOUT_OK);
	case PORT_POST80:
		return (INOUT_OK);
	}
	return (bhyve->flags & RUN_STRICT_IO ? INOUT_ABORT : INOUT_OK);
}

static enum inout_result
input(struct bhyve *bhyve, struct vcpu *vcpu, uint16_t port)
{
	uint32_t value = 0xffffffff;

	if ((bhyve->flags & RUN_COM1) && port >= COM1 && port < COM1 + 8) {
		mtx_lock_spin(&bhyve->mtx);
		value = uart_read(bhyve, port - COM1);
		mtx_unlock_spin(&bhyve->mtx);
	} else if (port == PORT_RESET)
		value = 0;
	else if (port != PORT_POST84 && (bhyve->flags & RUN_STRICT_IO))
		return (INOUT_ABORT);
	vm_inout_result(vcpu, value);
	return (INOUT_OK);
}

enum inout_result
bhyve_inout(struct bhyve *bhyve, struct vcpu *vcpu, int *status)
{
	const struct vm_exit *vme = &vcpu->exitinfo;
	enum inout_result result;

	if (vme->u.inout.string)
		return (INOUT_ABORT);
	result = vme->u.inout.in ? input(bhyve, vcpu, vme->u.inout.port) :
	    output(bhyve, vme->u.inout.port, vme->u.inout.eax, status);
	if (result == INOUT_ABORT)
		bhyve_error(bhyve, "Unhandled %s%c 0x%04x at 0x%lx\n", vme->u.inout.in ? "in" : "out",
		    vme->u.inout.bytes == 1 ? 'b' : vme->u.inout.bytes == 2 ? 'w' : 'l', vme->u.inout.port, vme->rip);
	return (result);
}
