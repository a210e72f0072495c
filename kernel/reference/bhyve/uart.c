/* A 16550 as bhyve's: it never makes the guest wait, and what it sends is on its way at once. */
#include "bhyve.h"

#define LCR_DLAB	0x80
#define LSR_DATA	0x01
#define LSR_THRE	0x20
#define LSR_TEMT	0x40
#define FCR_RX_RESET	0x02

/*
 * The console goes out run-length encoded: 0, count, byte for a run (and for a byte 0), anything else as it is. What
 * guests print is mostly zeros, and every byte on the control channel costs the emulator more than encoding it.
 */
#define RUN_MARK	0
#define RUN_LEAST	4
#define RUN_MOST	255

void
uart_flush(struct bhyve *bhyve)
{
	struct uart *u = &bhyve->uart;
	uint8_t packed[3 * UART_TX_SIZE];
	unsigned length = 0;

	for (unsigned at = 0, run; at < u->tx_count; at += run) {
		uint8_t byte = u->tx[at];

		for (run = 1; at + run < u->tx_count && u->tx[at + run] == byte && run < RUN_MOST; run++)
			;
		if (run < RUN_LEAST && byte != RUN_MARK) {
			run = 1;
			packed[length++] = byte;
		} else {
			packed[length++] = RUN_MARK;
			packed[length++] = (uint8_t)run;
			packed[length++] = byte;
		}
	}
	if (length != 0)
		ctl_event_named(CTL_EV_CONSOLE_OUT, bhyve->vm->name, packed, length);
	u->tx_count = 0;
}

uint8_t
uart_read(struct bhyve *bhyve, unsigned offset)
{
	struct uart *u = &bhyve->uart;
	uint8_t byte = 0;

	switch (offset) {
	case 0:
		if (u->lcr & LCR_DLAB)
			return ((uint8_t)u->divisor);
		if (u->rx_count != 0) {
			byte = u->rx[u->rx_head];
			u->rx_head = (u->rx_head + 1) % UART_RX_SIZE;
			u->rx_count--;
		}
		return (byte);
	case 1:
		return (u->lcr & LCR_DLAB ? (uint8_t)(u->divisor >> 8) : u->ier);
	case 2:
		return (0xc1);				/* FIFOs on, no interrupt pending */
	case 3:
		return (u->lcr);
	case 4:
		return (u->mcr);
	case 5:
		/*
		 * A guest that looks at the line status twice and sends nothing in between may be waiting for an
		 * answer. Looking once is what it does before every few bytes.
		 */
		if (u->rx_count == 0 && u->looked)
			uart_flush(bhyve);
		u->looked = true;
		return ((uint8_t)(LSR_THRE | LSR_TEMT | (u->rx_count != 0 ? LSR_DATA : 0)));
	case 7:
		return (u->scr);
	default:
		return (0);
	}
}

void
uart_write(struct bhyve *bhyve, unsigned offset, uint8_t value)
{
	struct uart *u = &bhyve->uart;

	switch (offset) {
	case 0:
		if (u->lcr & LCR_DLAB) {
			u->divisor = (uint16_t)((u->divisor & 0xff00) | value);
			break;
		}
		u->looked = false;
		u->tx[u->tx_count++] = value;
		if (u->tx_count == UART_TX_SIZE)
			uart_flush(bhyve);
		break;
	case 1:
		if (u->lcr & LCR_DLAB)
			u->divisor = (uint16_t)((u->divisor & 0x00ff) | value << 8);
		else
			u->ier = value & 0x0f;
		break;
	case 2:
		if (value & FCR_RX_RESET)
			u->rx_count = 0;
		u->fcr = value;
		break;
	case 3:
		u->lcr = value;
		break;
	case 4:
		u->mcr = value;
		break;
	case 7:
		u->scr = value;
		break;
	}
}

/* Bytes for COM1; the number taken. */
int
bhyve_console_in(struct vm *vm, const uint8_t *bytes, size_t length)
{
	struct bhyve *bhyve = vm->bhyve;
	struct uart *u;
	int taken = 0;

	if (bhyve == NULL || bhyve->ended)
		return (0);
	u = &bhyve->uart;
	mtx_lock_spin(&bhyve->mtx);
	while (length-- != 0 && u->rx_count < UART_RX_SIZE) {
		u->rx[(u->rx_head + u->rx_count++) % UART_RX_SIZE] = *bytes++;
		taken++;
	}
	mtx_unlock_spin(&bhyve->mtx);
	return (taken);
}
