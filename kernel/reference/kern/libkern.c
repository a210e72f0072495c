/* The little of a C library that a kernel needs. */
#include "kern.h"
#include "ctl.h"

/* Words, then the rest: each repetition counts as an instruction in the emulator. */
void *
memcpy(void *to, const void *from, size_t length)
{
	void *start = to;
	size_t words = length / 8, rest = length % 8;

	__asm__ __volatile__("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
	__asm__ __volatile__("rep movsb" : "+D"(to), "+S"(from), "+c"(rest) : : "memory");
	return (start);
}

void *
memset(void *to, int byte, size_t length)
{
	void *start = to;
	size_t words = length / 8, rest = length % 8;
	uint64_t pattern = (uint8_t)byte * 0x0101010101010101ull;

	__asm__ __volatile__("rep stosq" : "+D"(to), "+c"(words) : "a"(pattern) : "memory");
	__asm__ __volatile__("rep stosb" : "+D"(to), "+c"(rest) : "a"(pattern) : "memory");
	return (start);
}

int
memcmp(const void *a, const void *b, size_t length)
{
	const uint8_t *x = a, *y = b;

	for (; length != 0; length--, x++, y++)
		if (*x != *y)
			return (*x - *y);
	return (0);
}

size_t
strlen(const char *text)
{
	size_t n = 0;

	while (text[n] != '\0')
		n++;
	return (n);
}

int
strcmp(const char *a, const char *b)
{
	while (*a != '\0' && *a == *b)
		a++, b++;
	return ((unsigned char)*a - (unsigned char)*b);
}

int
strncmp(const char *a, const char *b, size_t length)
{
	for (; length != 0; length--, a++, b++) {
		if (*a != *b)
			return ((unsigned char)*a - (unsigned char)*b);
		if (*a == '\0')
			break;
	}
	return (0);
}

/* Decimal, or hexadecimal behind 0x. Ends at the first character that is no digit. */
uint64_t
strtou64(const char *text)
{
	unsigned base = 10;
	uint64_t value = 0;

	if (text[0] == '0' && (text[1] | 0x20) == 'x') {
		base = 16;
		text += 2;
	}
	for (;; text++) {
		unsigned digit;

		if (*text >= '0' && *text <= '9')
			digit = (unsigned)(*text - '0');
		else if ((*text | 0x20) >= 'a' && (*text | 0x20) <= 'f')
			digit = (unsigned)((*text | 0x20) - 'a') + 10;
		else
			return (value);
		if (digit >= base)
			return (value);
		value = value * base + digit;
	}
}

uint32_t
crc32(const void *data, size_t length)
{
	static uint32_t table[256];
	const uint8_t *bytes = data;
	uint32_t crc = ~0u;

	if (table[1] == 0) {
		for (uint32_t n = 255; n != 0; n--) {
			uint32_t value = n;

			for (int bit = 0; bit < 8; bit++)
				value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
			table[n] = value;
		}
	}
	while (length-- != 0)
		crc = crc >> 8 ^ table[(crc ^ *bytes++) & 0xff];
	return (~crc);
}

struct sink { char *buffer; size_t size, used; };

static void
put(struct sink *sink, char c)
{
	if (sink->used + 1 < sink->size)
		sink->buffer[sink->used] = c;
	sink->used++;
}

static void
put_number(struct sink *sink, uint64_t value, unsigned base, int width, char pad)
{
	char digits[24];
	int n = 0;

	do {
		digits[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value != 0);
	for (; width > n; width--)
		put(sink, pad);
	while (n != 0)
		put(sink, digits[--n]);
}

/* Knows %s %c %d %u %x %#x %%, the l and ll modifiers, zero padding and widths. */
int
vsnprintf(char *buffer, size_t size, const char *format, __builtin_va_list ap)
{
	struct sink sink = { buffer, size, 0 };

	for (; *format != '\0'; format++) {
		char pad = ' ';
		int width = 0, longs = 0;

		if (*format != '%') {
			put(&sink, *format);
			continue;
		}
		format++;
		if (*format == '#') {			/* %#x */
			put(&sink, '0');
			put(&sink, 'x');
			format++;
		}
		if (*format == '0')
			pad = '0';
		for (; *format >= '0' && *format <= '9'; format++)
			width = width * 10 + (*format - '0');
		for (; *format == 'l'; format++)
			longs++;
		switch (*format) {
		case 's':
			for (const char *text = __builtin_va_arg(ap, const char *); *text != '\0'; text++)
				put(&sink, *text);
			break;
		case 'c':
			put(&sink, (char)__builtin_va_arg(ap, int));
			break;
		case 'd': {
			int64_t value = longs ? __builtin_va_arg(ap, int64_t) : __builtin_va_arg(ap, int);

			if (value < 0)
				put(&sink, '-');
			put_number(&sink, value < 0 ? (uint64_t)-value : (uint64_t)value, 10, width, pad);
			break;
		}
		case 'u':
		case 'x': {
			uint64_t value = longs ? __builtin_va_arg(ap, uint64_t) : __builtin_va_arg(ap, unsigned);

			put_number(&sink, value, *format == 'u' ? 10 : 16, width, pad);
			break;
		}
		default:
			put(&sink, *format);
		}
	}
	if (size != 0)
		buffer[sink.used < size ? sink.used : size - 1] = '\0';
	return ((int)sink.used);
}

int
snprintf(char *buffer, size_t size, const char *format, ...)
{
	__builtin_va_list ap;
	int n;

	__builtin_va_start(ap, format);
	n = vsnprintf(buffer, size, format, ap);
	__builtin_va_end(ap);
	return (n);
}

void
printf(const char *format, ...)
{
	char line[256];
	__builtin_va_list ap;

	__builtin_va_start(ap, format);
	vsnprintf(line, sizeof(line), format, ap);
	__builtin_va_end(ap);
	ctl_event(CTL_EV_KLOG, line, strlen(line));
}
