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
#define MAX_ITERATIONS	16		/* of string I/O, before the guest may take an interrupt (inout.c of FreeBSD's bhyve) */
#define PSL_D		0x400ull

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

/* What a port reads; false where nobody answers for it. */
static bool
input(struct bhyve *bhyve, uint16_t port, uint32_t *value)
{
	*value = 0xffffffff;
	if ((bhyve->flags & RUN_COM1) && port >= COM1 && port < COM1 + 8) {
		mtx_lock_spin(&bhyve->mtx);
		*value = uart_read(bhyve, port - COM1);
		mtx_unlock_spin(&bhyve->mtx);
	} else if (port == PORT_RESET)
		*value = 0;
	else if (port != PORT_POST84 && (bhyve->flags & RUN_STRICT_IO))
		return (false);
	return (true);
}

/* One access of string I/O: between a port and memory at `gla`. ABORT where the memory is none that can be reached. */
static enum inout_result
string_access(struct bhyve *bhyve, struct vcpu *vcpu, uint64_t gla, int *status)
{
	const struct vm_exit *vme = &vcpu->exitinfo;
	uint8_t *bytes[4];
	uint32_t value = 0;

	for (unsigned n = 0; n < vme->u.inout.bytes; n++) {
		bytes[n] = vm_guest_byte(vcpu, gla + n, vme->u.inout.in);
		if (bytes[n] == NULL)
			return (INOUT_ABORT);
	}
	if (vme->u.inout.in) {
		if (!input(bhyve, vme->u.inout.port, &value))
			return (INOUT_ABORT);
		for (unsigned n = 0; n < vme->u.inout.bytes; n++)
			*bytes[n] = (uint8_t)(value >> 8 * n);
		return (INOUT_OK);
	}
	for (unsigned n = 0; n < vme->u.inout.bytes; n++)
		value |= (uint32_t)*bytes[n] << 8 * n;
	return (output(bhyve, vme->u.inout.port, value, status));
}

/*
 * INS and OUTS in long mode, with all of the index register as the address. The instruction is executed again for
 * iterations that are left.
 */
static enum inout_result
string_inout(struct bhyve *bhyve, struct vcpu *vcpu, int *status)
{
	const struct vm_exit *vme = &vcpu->exitinfo;
	int index_register = vme->u.inout.in ? VM_REG_GUEST_RDI : VM_REG_GUEST_RSI;
	uint64_t index, left = 1, rflags, step;
	unsigned done = 0;
	enum inout_result result = INOUT_OK;

	if (vm_get_register(vcpu, index_register, &index) != 0 || vm_get_register(vcpu, VM_REG_GUEST_RFLAGS, &rflags) != 0)
		return (INOUT_ABORT);
	if (vme->u.inout.rep && vm_get_register(vcpu, VM_REG_GUEST_RCX, &left) != 0)
		return (INOUT_ABORT);
	step = (rflags & PSL_D) != 0 ? -(uint64_t)vme->u.inout.bytes : vme->u.inout.bytes;
	for (; left != 0 && done < MAX_ITERATIONS && result == INOUT_OK; left--, done++, index += step)
		result = string_access(bhyve, vcpu, index, status);
	if (result == INOUT_OK) {
		(void)vm_set_register(vcpu, index_register, index);
		if (vme->u.inout.rep)
			(void)vm_set_register(vcpu, VM_REG_GUEST_RCX, left);
		if (left != 0)
			vcpu->nextrip = vme->rip;
	}
	return (result);
}

static enum inout_result
plain_inout(struct bhyve *bhyve, struct vcpu *vcpu, int *status)
{
	const struct vm_exit *vme = &vcpu->exitinfo;
	uint32_t value;

	if (!vme->u.inout.in)
		return (output(bhyve, vme->u.inout.port, vme->u.inout.eax, status));
	if (!input(bhyve, vme->u.inout.port, &value))
		return (INOUT_ABORT);
	vm_inout_result(vcpu, value);
	return (INOUT_OK);
}

enum inout_result
bhyve_inout(struct bhyve *bhyve, struct vcpu *vcpu, int *status)
{
	const struct vm_exit *vme = &vcpu->exitinfo;
	enum inout_result result;

	result = vme->u.inout.string ? string_inout(bhyve, vcpu, status) : plain_inout(bhyve, vcpu, status);
	if (result == INOUT_ABORT)
		bhyve_error(bhyve, "Unhandled %s%c 0x%04x at 0x%lx\n", vme->u.inout.in ? "in" : "out",
		    vme->u.inout.bytes == 1 ? 'b' : vme->u.inout.bytes == 2 ? 'w' : 'l', vme->u.inout.port, vme->rip);
	return (result);
}
