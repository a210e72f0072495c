/*
 * Records stay in memory while the program runs and go out afterwards: every byte sent is a VM exit, and an
 * exit is just what many cases must not have.
 *
 * Lines are text, so that no terminal on the way changes them. Each ends with the CRC-32 of what stands before:
 *   VGP1 B <nonce> <crc>                         banner: the guest runs
 *   VGP1 P <nonce> <phase> <crc>                 waits for the host
 *   R <fields> <crc>                             a record: its fields in order (the first is its sequence number),
 *                                                hexadecimal without leading zeros, a dot behind each; nothing
 *                                                for a zero. Its CRC begins with the four bytes of the nonce
 *   VGP1 E <nonce> <count> <crc of all> <operations> <crc>
 *                                                canary: nothing is missing; operations that the boot processor did
 *
 * Under END_KEEP_RECORDS there are no R lines: the host reads the records in the memory of the guest that ended, and the
 * canary is what they have to agree with.
 */
#include "runtime.h"

#define COM1 0x3F8
#define RECORD_LIMIT ((RECORDS_END - RECORDS) / sizeof(struct record))
#define FIFO_DEPTH 16

static volatile uint32_t record_count;

static char line[384];
static unsigned line_length;
static unsigned fifo_room;

struct record *
record_new(struct context *ctx, unsigned kind)
{
	uint32_t seq = __atomic_fetch_add(&record_count, 1, __ATOMIC_SEQ_CST);
	struct record *record;

	if (seq >= RECORD_LIMIT - 1) {
		/* The last slot says that there were more. */
		record_count = RECORD_LIMIT;
		seq = RECORD_LIMIT - 1;
		kind = RECORD_OVERFLOW;
	}
	record = (struct record *)RECORDS + seq;
	*record = (struct record){ .seq = seq, .kind = (uint8_t)kind, .op = (uint16_t)ctx->op, .cpu = ctx->cpu,
	    .iteration = ctx->iteration, .site = ctx->site, .next = ctx->next };
	return (record);
}

uint32_t
crc32(uint32_t crc, const void *data, size_t length)
{
	static uint32_t table[256];
	const uint8_t *bytes = data;

	if (table[1] == 0) {
		for (uint32_t n = 0; n < 256; n++) {
			uint32_t value = n;

			for (int bit = 0; bit < 8; bit++)
				value = value >> 1 ^ (value & 1 ? 0xEDB88320 : 0);
			table[n] = value;
		}
	}
	crc = ~crc;
	while (length-- != 0)
		crc = crc >> 8 ^ table[(crc ^ *bytes++) & 0xFF];
	return (~crc);
}

void
uart_init(void)
{
	outb(COM1 + 1, 0);
	outb(COM1 + 3, 0x80);
	outb(COM1 + 0, 1);              /* 115200 baud: a port whose divisor was never set sends nothing in Bochs */
	outb(COM1 + 1, 0);
	outb(COM1 + 3, 0x03);
	outb(COM1 + 2, 0x07);           /* FIFOs on and empty */
	outb(COM1 + 4, 0x03);
}

static void
uart_send(char byte)
{
	if (fifo_room == 0) {
		while ((inb(COM1 + 5) & 0x20) == 0)
			__asm__ volatile("pause");
		fifo_room = FIFO_DEPTH;
	}
	fifo_room--;
	outb(COM1, (uint8_t)byte);
}

/* Waits with IF=1 for one byte from the host. */
uint8_t
uart_receive(void)
{
	__asm__ volatile("sti");
	while ((inb(COM1 + 5) & 0x01) == 0)
		__asm__ volatile("pause");
	return (inb(COM1));
}

static void
put(char byte)
{
	line[line_length++] = byte;
}

static const char digits[] = "0123456789abcdef";

static void
put_word(uint32_t value)
{
	put(' ');
	for (int shift = 28; shift >= 0; shift -= 4)
		put(digits[value >> shift & 0xF]);
}

static void
put_field(uint64_t value)
{
	int shift = 60;

	while (shift >= 0 && (value >> shift & 0xF) == 0)
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		put(digits[value >> shift & 0xF]);
	put('.');
}

/* In the order of struct record; harness/guest/records.py reads them back into the same layout. */
static void
put_record(const struct record *record)
{
	const uint64_t fields[] = { record->seq, record->kind, record->vector, record->op, record->rip, record->rflags,
	    record->error, record->cs, record->mode, record->cpu, record->iteration, record->dr6, record->dr7,
	    record->value, record->site, record->next, record->aux };

	for (unsigned n = 0; n < sizeof(fields) / sizeof(fields[0]); n++)
		put_field(fields[n]);
}

static void
start_line(char type, uint32_t nonce)
{
	line_length = 0;
	put('V');
	put('G');
	put('P');
	put('1');
	put(' ');
	put(type);
	put_word(nonce);
}

static void
finish_line(uint32_t crc)
{
	put_word(crc32(crc, line, line_length));
	put('\r');
	put('\n');
	for (unsigned n = 0; n < line_length; n++)
		uart_send(line[n]);
}

void
send_banner(uint32_t nonce)
{
	start_line('B', nonce);
	finish_line(0);
}

void
send_phase(uint32_t nonce, uint32_t phase)
{
	start_line('P', nonce);
	put_word(phase);
	finish_line(0);
}

/* For a host that reads the records where they are; a shell can take this word as it is. */
static void
tell_length(uint32_t bytes)
{
	char *word = (char *)RECORDS_LENGTH;
	uint32_t blocks = (bytes + RECORDS_BLOCK - 1) / RECORDS_BLOCK, scale = 1;

	for (unsigned n = 0; n < 16; n++)
		word[n] = '\n';
	while (blocks / scale >= 10)
		scale *= 10;
	for (; scale != 0; scale /= 10)
		*word++ = digits[blocks / scale % 10];
}

/* Until the run's end it is the whole area, so that a guest that never comes there leaves what it had noted. */
void
offer_records(int keep)
{
	if (keep)
		tell_length(RECORDS_END - RECORDS);
}

void
send_records(uint32_t nonce, int keep)
{
	const struct record *records = (const struct record *)RECORDS;
	uint32_t count = record_count, seed = crc32(0, &nonce, sizeof(nonce));

	if (keep)
		tell_length(count * (uint32_t)sizeof(struct record));
	for (uint32_t n = 0; n < count && !keep; n++) {
		/* Every byte is a VM exit, and records are most of what is sent. */
		line_length = 0;
		put('R');
		put(' ');
		put_record(&records[n]);
		finish_line(seed);
	}
	start_line('E', nonce);
	put_word(count);
	put_word(crc32(0, records, count * sizeof(struct record)));
	put_word((uint32_t)contexts[0].operations);
	finish_line(0);
	/* The line drains before the machine is switched off. */
	while ((inb(COM1 + 5) & 0x40) == 0)
		__asm__ volatile("pause");
}
