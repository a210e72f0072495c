/*
 * The control channel: bytes, frames, and the thread that answers requests. What they do is in ctl_requests.c. Requests
 * come in at COM1; what goes out is written to the emulator's debug port, which takes a byte whenever there is one
 * (harness/bochs/line.c puts both together).
 */
#include "cpufunc.h"
#include "ctl.h"
#include "ctl_internal.h"
#include "vm.h"

#define COM1		0x3f8
#define LSR_DATA	0x01
#define MAGIC0		0xa5
#define MAGIC1		0x5a
#define HEADER		4		/* type, code, sequence number */
#define OUTPUT		0xe9
/* Between two frames: nothing is to be done until a request arrives. No frame begins with it. */
#define REST		0
/* Polls without a byte after which a frame that began is given up: the other side died in the middle of it. */
#define PATIENCE	20000000

volatile int panic_cpu = NOCPU;
static struct mtx tx_mtx;
#define FILLERS		(CTL_BODY_MAX / 64 + 1)

static uint8_t rx_body[CTL_BODY_MAX];
static uint8_t response[CTL_BODY_MAX];

void
ctl_init(void)
{
	outb(COM1 + 1, 0);
	outb(COM1 + 3, 0x80);
	outb(COM1, 1);
	outb(COM1 + 1, 0);
	outb(COM1 + 3, 0x03);
	/*
	 * FIFOs off: Bochs takes the next byte from the line only when the last one was read, so that nothing
	 * is lost while a guest has this CPU.
	 */
	outb(COM1 + 2, 0);
	outb(COM1 + 4, 0x03);
}

static void
send(const void *data, size_t length)
{
	__asm__ __volatile__("rep outsb" : "+S"(data), "+c"(length) : "d"((uint16_t)OUTPUT) : "memory");
}

static void
send_frame(uint8_t type, uint8_t code, uint16_t seq, const void *first, size_t n1, const void *second, size_t n2)
{
	static uint8_t body[CTL_BODY_MAX + HEADER];
	uint8_t head[8] = { MAGIC0, MAGIC1 };
	uint32_t crc;
	uint16_t length;

	mtx_lock_spin(&tx_mtx);
	if (n1 > CTL_BODY_MAX)
		n1 = CTL_BODY_MAX;
	if (n2 > CTL_BODY_MAX - n1)
		n2 = CTL_BODY_MAX - n1;
	body[0] = type;
	body[1] = code;
	memcpy(body + 2, &seq, 2);
	memcpy(body + HEADER, first, n1);
	memcpy(body + HEADER + n1, second, n2);
	length = (uint16_t)(HEADER + n1 + n2);
	crc = crc32(body, length);
	memcpy(head + 2, &length, 2);
	memcpy(head + 4, &crc, 4);
	send(head, sizeof(head));
	send(body, length);
	mtx_unlock_spin(&tx_mtx);
}

void
ctl_event(uint8_t code, const void *payload, size_t length)
{
	send_frame(CTL_TYPE_EVENT, code, 0, payload, length, NULL, 0);
}

void
ctl_event_named(uint8_t code, const char *name, const void *payload, size_t length)
{
	char padded[32] = { 0 };

	snprintf(padded, sizeof(padded), "%s", name);
	send_frame(CTL_TYPE_EVENT, code, 0, padded, sizeof(padded), payload, length);
}

void
panic(const char *format, ...)
{
	uint8_t filler[64];
	int nobody = NOCPU;
	char text[512];
	__builtin_va_list ap;

	disable_intr();
	/* Only the first CPU speaks; it stops the others, whose last words would say nothing new. */
	if (!__atomic_compare_exchange_n(&panic_cpu, &nobody, curcpu(), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) &&
	    nobody != curcpu())
		cpu_stop();
	for (int cpu = 0; cpu < MAXCPU; cpu++)
		cpu_kick(cpu);
	__builtin_va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	__builtin_va_end(ap);
	/*
	 * Whoever held the line will not finish: fill up the frame that was on its way, so that it is seen to be damaged.
	 * Nothing begins with these bytes, and they are no REST.
	 */
	memset(filler, 0xff, sizeof(filler));
	for (size_t n = 0; tx_mtx.owned && n < sizeof(filler) * FILLERS; n += sizeof(filler))
		send(filler, sizeof(filler));
	tx_mtx.owned = 0;
	ctl_event(CTL_EV_PANIC, text, strlen(text));
	cpu_stop();
}

static bool
poll_byte(uint8_t *byte)
{
	if ((inb(COM1 + 5) & LSR_DATA) == 0)
		return (false);
	*byte = inb(COM1);
	return (true);
}

static bool
read_bytes(void *to, size_t length)
{
	uint8_t *bytes = to;

	for (size_t n = 0; n < length; n++) {
		unsigned left = PATIENCE;

		while (!poll_byte(&bytes[n]))
			if (--left == 0)
				return (false);
	}
	return (true);
}

/* The next whole and undamaged frame; anything else on the line is passed over. */
static size_t
receive(void)
{
	uint8_t byte, head[6];
	uint16_t length;
	uint32_t crc;

	for (;;) {
		/*
		 * With a guest running, the CPU rests between ticks. Without one nothing else needs it, and the whole
		 * machine may stand still until there is something on the line.
		 */
		while (!poll_byte(&byte) || byte != MAGIC0) {
			if (bhyve_running()) {
				bhyve_tick();
				sched_wait();
			} else if (sched_others()) {
				sched_yield();
			} else {
				mtx_lock_spin(&tx_mtx);
				outb(OUTPUT, REST);
				mtx_unlock_spin(&tx_mtx);
				sched_yield();
			}
		}
		if (!read_bytes(&byte, 1) || byte != MAGIC1 || !read_bytes(head, sizeof(head)))
			continue;
		memcpy(&length, head, 2);
		memcpy(&crc, head + 2, 4);
		if (length < HEADER || length >= CTL_BODY_MAX || !read_bytes(rx_body, length))
			continue;
		if (crc32(rx_body, length) == crc && rx_body[0] == CTL_TYPE_REQUEST) {
			rx_body[length] = '\0';		/* payloads that are text end here */
			return (length);
		}
	}
}

void
ctl_thread(void *arg)
{
	(void)arg;
	printf("vmmcheck reference kernel ready\n");
	for (;;) {
		size_t length = receive(), used = 4;
		uint16_t seq;
		int error;

		memcpy(&seq, rx_body + 2, 2);
		error = ctl_request(rx_body[1], rx_body + HEADER, length - HEADER, response + 4, &used);
		memcpy(response, &error, 4);
		send_frame(CTL_TYPE_RESPONSE, rx_body[1], seq, response, used, NULL, 0);
	}
}
