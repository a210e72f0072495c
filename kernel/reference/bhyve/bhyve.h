/* The user process that runs a virtual machine. */
#ifndef BHYVE_H
#define BHYVE_H

#include "ctl.h"
#include "vm.h"

#define UART_RX_SIZE	64
#define UART_TX_SIZE	512
#define STDERR_SIZE	512

struct uart {
	uint8_t ier, lcr, mcr, scr, fcr;
	uint16_t divisor;
	uint8_t rx[UART_RX_SIZE];
	unsigned rx_head, rx_count;
	uint8_t tx[UART_TX_SIZE];
	unsigned tx_count, tx_seen;		/* now, and when the control thread last looked */
	bool looked;				/* the guest read the line status since it last sent */
};

struct bhyve {
	bool used;
	struct vm *vm;
	uint32_t ncpu;
	struct thread *threads[VM_MAXCPU];
	volatile uint32_t left;			/* threads that still run */
	volatile bool ending;			/* the first that ends decides about the status */
	struct mtx mtx;				/* the console, and what goes to stderr */
	uint32_t flags;
	volatile bool killed;
	volatile bool ended;
	int status;
	struct uart uart;
	char errors[STDERR_SIZE];
};

/* bhyve/uart.c: COM1. Output is collected and sent by the buffer, when the guest waits for input, or when it rests for a tick. */
uint8_t	 uart_read(struct bhyve *bhyve, unsigned offset);
void	 uart_write(struct bhyve *bhyve, unsigned offset, uint8_t value);
void	 uart_flush(struct bhyve *bhyve);

/* bhyve/inout.c: what a port access in userland comes to. */
enum inout_result { INOUT_OK, INOUT_EXIT, INOUT_ABORT };
enum inout_result bhyve_inout(struct bhyve *bhyve, struct vcpu *vcpu, int *status);

/* bhyve/gdb.c */
bool	 bhyve_debug_exit(struct bhyve *bhyve, struct vcpu *vcpu);

void	 bhyve_error(struct bhyve *bhyve, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
