/*
 * Preloaded into Bochs: one process sets itself up once, and every program gets a copy of it (fork) as it stands before
 * its first instruction. Setting up is nine tenths of what a short program costs.
 *
 * Bochs' debugger reads its first command when the machine is complete and reset; there the process stops and serves
 * requests from the socket VMMCHECK_NURSERY_FD until that is closed. A request is three strings, each ended by a NUL:
 * image of the ROM, file or terminal of COM1, log. A copy loads that image where Bochs had put the first one, replaces
 * the two files and goes on with the command. It answers struct answer. Copies are children of whoever started the
 * nursery (CLONE_PARENT), so that they are waited for like any other process.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REQUEST_MAX 8192
#define CHUNKS_MAX 64

/* step: 0 done, 1 fork, 2 ROM, 3 COM1, 4 log; error: errno, or 0 where the sizes differ. */
struct answer {
	int32_t pid, step, error;
};

struct chunk {
	void *to;
	size_t length;
};

static struct chunk chunks[CHUNKS_MAX];
static unsigned chunk_count;
static bool ready;		/* the machine is complete: nothing is loaded any more */
static bool copied;		/* this process is a copy */
static bool panicking;		/* the last line of the log is being written */
static const char *serial_path;	/* COM1 of this copy */

/* Whether descriptor `fd` is the file that the environment variable names. */
static bool
is_file(int fd, const char *variable)
{
	const char *path = getenv(variable);
	struct stat named, open_one;

	return (path != NULL && fstat(fd, &open_one) == 0 && stat(path, &named) == 0 &&
	    named.st_dev == open_one.st_dev && named.st_ino == open_one.st_ino);
}

/* Remembers where the ROM goes. */
ssize_t
read(int fd, void *buffer, size_t length)
{
	ssize_t got = syscall(SYS_read, fd, buffer, length);

	if (!ready && got > 0 && chunk_count < CHUNKS_MAX && is_file(fd, "VMMCHECK_NURSERY_ROM"))
		chunks[chunk_count++] = (struct chunk){ buffer, (size_t)got };
	return (got);
}

/*
 * A copy has nothing to tidy up: taking Bochs' tables apart takes longer than running a program. A panic is always
 * fatal here, so once its line of the log is complete and flushed, only ending is left to do; with status 1, as Bochs.
 */
static void
look_for_panic(const char *text, size_t length)
{
	if (copied && memmem(text, length, ">>PANIC<<", 9) != NULL)
		panicking = true;
}

size_t
fwrite(const void *data, size_t size, size_t count, FILE *stream)
{
	look_for_panic(data, size * count);
	return (fwrite_unlocked(data, size, count, stream));
}

int
fputs(const char *text, FILE *stream)
{
	look_for_panic(text, strlen(text));
	return (fputs_unlocked(text, stream));
}

int
__fprintf_chk(FILE *stream, int flag, const char *format, ...)
{
	va_list arguments;
	int written;

	(void)flag;
	look_for_panic(format, strlen(format));
	va_start(arguments, format);
	written = vfprintf(stream, format, arguments);
	va_end(arguments);
	return (written);
}

int
fflush(FILE *stream)
{
	int error = ((int (*)(FILE *))dlsym(RTLD_NEXT, "fflush"))(stream);

	if (panicking)
		exit(EXIT_FAILURE);
	return (error);
}

void
exit(int status)
{
	if (copied) {
		((int (*)(FILE *))dlsym(RTLD_NEXT, "fflush"))(NULL);
		_exit(status);
	}
	((void (*)(int))dlsym(RTLD_NEXT, "exit"))(status);
	__builtin_unreachable();
}

static bool
load_rom(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat info;
	size_t total = 0;

	errno = fd < 0 ? errno : 0;
	if (fd < 0 || fstat(fd, &info) != 0)
		return (false);
	for (unsigned n = 0; n < chunk_count; n++)
		total += chunks[n].length;
	if (total == 0 || (size_t)info.st_size != total)
		return (false);
	for (unsigned n = 0; n < chunk_count; n++) {
		for (size_t done = 0; done < chunks[n].length;) {
			ssize_t got = syscall(SYS_read, fd, (char *)chunks[n].to + done, chunks[n].length - done);

			if (got <= 0)
				return (false);
			done += (size_t)got;
		}
	}
	close(fd);
	return (true);
}

/* Bochs opens the file of a serial port when the first byte is sent. */
FILE *
fopen64(const char *path, const char *mode)
{
	const char *first = getenv("VMMCHECK_NURSERY_SERIAL");

	if (copied && first != NULL && strcmp(path, first) == 0)
		path = serial_path;
	return (((FILE *(*)(const char *, const char *))dlsym(RTLD_NEXT, "fopen64"))(path, mode));
}

/* Every descriptor of the file that `variable` names becomes one of `path`. */
static bool
replace(const char *variable, const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_NOCTTY | O_CLOEXEC, 0644);
	bool found = false;

	if (fd < 0)
		return (false);
	for (int other = 3; other < 256; other++) {
		if (other == fd || !is_file(other, variable))
			continue;
		(void)fcntl(fd, F_SETFL, fcntl(other, F_GETFL));
		found |= dup2(fd, other) == other;
	}
	close(fd);
	errno = found ? errno : 0;
	return (found);
}

static int
become(const char *rom, const char *serial, const char *log)
{
	errno = 0;
	if (!load_rom(rom))
		return (2);
	serial_path = serial;
	if (access(getenv("VMMCHECK_NURSERY_SERIAL"), F_OK) == 0 && !replace("VMMCHECK_NURSERY_SERIAL", serial))
		return (3);
	return (replace("VMMCHECK_NURSERY_LOG", log) ? 0 : 4);
}

/* Whoever made the nursery is gone, perhaps without a chance to tidy up. */
static void
remove_folder(const char *path)
{
	DIR *folder = opendir(path);
	struct dirent *entry;

	while (folder != NULL && (entry = readdir(folder)) != NULL)
		(void)unlinkat(dirfd(folder), entry->d_name, 0);
	(void)rmdir(path);
}

static void
serve(int fd)
{
	static char request[REQUEST_MAX];
	ssize_t length;

	while ((length = recv(fd, request, sizeof(request) - 1, 0)) > 0) {
		const char *rom = request, *serial, *log;
		struct answer answer = { 0 };
		long pid;

		request[length] = '\0';
		serial = rom + strlen(rom) + 1;
		log = serial + strlen(serial) + 1;
		pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, NULL);
		if (pid > 0)
			continue;
		answer.pid = (int32_t)syscall(SYS_getpid);
		if (pid < 0) {
			answer.step = 1;
			answer.error = errno;
			(void)send(fd, &answer, sizeof(answer), MSG_NOSIGNAL);
			continue;
		}
		copied = true;
		/* Whoever asked is the parent; without it nobody would end a program that hangs. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setsid();
		answer.step = become(rom, serial, log);
		answer.error = answer.step != 0 ? errno : 0;
		(void)send(fd, &answer, sizeof(answer), MSG_NOSIGNAL);
		close(fd);
		if (answer.step != 0)
			_exit(EXIT_FAILURE);
		return;
	}
	remove_folder(getenv("VMMCHECK_NURSERY_FOLDER"));
	_exit(EXIT_SUCCESS);
}

/* The debugger wants a command: the machine is complete. */
char *
fgets(char *line, int size, FILE *file)
{
	const char *fd = getenv("VMMCHECK_NURSERY_FD");

	if (!ready && fd != NULL && is_file(fileno(file), "VMMCHECK_NURSERY_COMMANDS")) {
		ready = true;
		serve(atoi(fd));
		/* All copies share the offset, and none has read anything yet. */
		(void)lseek(fileno(file), 0, SEEK_SET);
	}
	return (((char *(*)(char *, int, FILE *))dlsym(RTLD_NEXT, "fgets"))(line, size, file));
}
