/*
 * Preloaded into the Bochs of an emulated host: both directions of the control channel (kernel/reference/kern/ctl.c) on
 * one terminal, VMMCHECK_LINE, and a stop where nothing is to be done.
 *
 * Requests reach the kernel through the emulated COM1; Bochs asks the terminal for every byte on its own, here all that
 * has arrived is fetched at once. What the kernel has to say goes to port 0xE9, which Bochs hands to putc(): a serial
 * port would take the time of some ninety instructions for each byte. It is passed on frame by frame. A byte 0 between
 * two frames says that the kernel has nothing to do but wait for a request: until one arrives
 * the process sleeps, and emulated time with it. No byte of a frame is changed, dropped or put in another order.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BUFFER 8192
/* Bochs looks at the line once in the time of a byte; only every so many of those looks are a system call. */
#define SHARE 4

static int line = -1;
static unsigned char in[BUFFER], out[BUFFER];
static size_t in_at, in_have, out_have;
static unsigned looks;

/* A frame: two bytes of magic, its length, a checksum, and as many bytes. */
#define FRAME_HEADER 8
#define REST 0
#define FILLER 0

/* Where in a frame a stream of bytes is: 0 between two of them. */
struct frame {
	size_t at, length;
};

static struct frame request, answer;

int
open64(const char *path, int flags, ...)
{
	const char *name = getenv("VMMCHECK_LINE");
	va_list arguments;
	int mode, fd;

	va_start(arguments, flags);
	mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, int) : 0;
	va_end(arguments);
	fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
	if (fd >= 0 && name != NULL && strcmp(path, name) == 0)
		line = fd;
	return (fd);
}

static void
count(struct frame *frame, unsigned char byte)
{
	static const unsigned char magic[] = { 0xa5, 0x5a };

	if (frame->at < sizeof(magic) && byte != magic[frame->at]) {
		frame->at = 0;
		return;
	}
	if (frame->at == 2 || frame->at == 3)
		frame->length = (frame->length >> 8) | ((size_t)byte << 8);
	if (++frame->at >= FRAME_HEADER && frame->at == FRAME_HEADER + frame->length)
		*frame = (struct frame){ 0 };
}

static void
flush(void)
{
	size_t done = 0;

	while (done < out_have) {
		ssize_t sent = syscall(SYS_write, line, out + done, out_have - done);

		if (sent < 0 && errno != EINTR && errno != EAGAIN)
			break;		/* nobody is there any more */
		done += sent > 0 ? (size_t)sent : 0;
	}
	out_have = 0;
}

ssize_t
read(int fd, void *data, size_t length)
{
	if (fd != line || line < 0 || length == 0)
		return (syscall(SYS_read, fd, data, length));
	*(unsigned char *)data = in_at < in_have ? in[in_at++] : FILLER;
	count(&request, *(unsigned char *)data);
	return (1);
}

/* Waits for bytes on the line, `limit` milliseconds at most (-1: as long as it takes), and fetches them. */
static bool
fetch(int limit)
{
	struct pollfd wanted = { .fd = line, .events = POLLIN };
	ssize_t got;

	if (poll(&wanted, 1, limit) <= 0 || (wanted.revents & POLLIN) == 0)
		return (false);
	got = syscall(SYS_read, line, in, sizeof(in));
	in_at = 0;
	in_have = got > 0 ? (size_t)got : 0;
	return (in_have != 0);
}

/*
 * Whether a byte of the line can be read. Bochs looks again in a tenth of a second of emulated time when there is none,
 * in a byte's time when there is one: between requests it is given a filler, which the kernel passes over.
 */
static bool
look(void)
{
	if (in_at < in_have)
		return (true);
	return ((++looks % SHARE == 0 && fetch(0)) || request.at == 0);
}

static void
rest(void)
{
	flush();
	/* The first byte of a request may be on its way inside Bochs, unseen by the kernel: then it is no time to sleep. */
	if (in_at == in_have && request.at == 0)
		(void)fetch(-1);
}

int
select(int count, fd_set *readable, fd_set *writable, fd_set *special, struct timeval *limit)
{
	struct timespec wait, *most = NULL;

	if (line >= 0 && readable != NULL && count == line + 1 && FD_ISSET(line, readable)) {
		if (look())
			return (1);
		FD_ZERO(readable);
		return (0);
	}
	if (limit != NULL) {
		wait = (struct timespec){ limit->tv_sec, limit->tv_usec * 1000 };
		most = &wait;
	}
	return ((int)syscall(SYS_pselect6, count, readable, writable, special, most, NULL));
}

/* Port 0xE9. */
int
putc(int byte, FILE *stream)
{
	if (line < 0 || stream != stdout)
		return (fputc(byte, stream));
	if (answer.at == 0 && byte == REST) {
		rest();
		return (byte);
	}
	if (out_have == BUFFER)
		flush();
	out[out_have++] = (unsigned char)byte;
	count(&answer, (unsigned char)byte);
	if (answer.at == 0)
		flush();
	return (byte);
}
