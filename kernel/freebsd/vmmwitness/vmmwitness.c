/*
 * vmmwitness: debug registers of the host's threads, through ptrace(2), as witnesses of what a guest does to them.
 *
 *   vmmwitness dbregs get PID LWP
 *   vmmwitness dbregs set PID LWP dr0=0x... dr7=0x...
 *   vmmwitness bases PID LWP
 *   vmmwitness sentinel --cpu N --dr dr0=...,dr7=... [--fsbase N] [--gsbase N] [--watch]
 *
 * A sentinel is an ordinary process, bound to a CPU, with debug registers of its own. It touches its variable until
 * standard input ends; with --watch each touch hits its own watch and is counted by its parent. A trap that comes at any
 * other time is "foreign": somebody else's watch fired here. It has no thread-local storage, so that its FS and GS base
 * may be anything.
 *
 * Static and without libraries: one file that runs on 12.1 to 15.
 */

typedef unsigned long u64;
typedef unsigned int u32;

long call6(long number, long a, long b, long c, long d, long e, long f);

enum { SYS_exit = 1, SYS_fork, SYS_read, SYS_write, SYS_wait4 = 7, SYS_getpid = 20, SYS_ptrace = 26, SYS_kill = 37,
    SYS_poll = 209, SYS_nanosleep = 240, SYS_mmap = 477, SYS_cpuset_setaffinity = 488 };
enum { PT_TRACE_ME = 0, PT_CONTINUE = 7, PT_ATTACH = 10, PT_DETACH = 11, PT_GETDBREGS = 37, PT_SETDBREGS = 38 };
/* sys/x86/include/ptrace.h: PT_FIRSTMACH + 7 and on */
enum { PT_GETFSBASE = 71, PT_SETFSBASE = 72, PT_GETGSBASE = 73, PT_SETGSBASE = 74 };
enum { SIGTRAP = 5, SIGKILL = 9, SIGSTOP = 17 };
enum { WNOHANG = 1, PROT_READ_WRITE = 3, MAP_SHARED_ANON = 0x1001 };
enum { CPU_LEVEL_WHICH = 3, CPU_WHICH_PID = 2 };

#define call(number, ...) CALL(number, __VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define CALL(number, a, b, c, d, e, f, ...) call6(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

/* What ptrace(2) exchanges: dr[0]-dr[15] (machine/reg.h). */
struct dbregs {
	u64 dr[16];
};

/* Shared by a sentinel and its parent. */
struct shared {
	/* First, and alone in its cache line, so that a watch of any length fits. */
	volatile u64 variable;
	u64 pad[7];
	volatile u64 touches;
	volatile u64 touching;
};

/* --- text ------------------------------------------------------------------------------------------------------- */

static u64
length(const char *s)
{
	u64 n = 0;

	while (s[n] != '\0')
		n++;
	return (n);
}

static void
put(int fd, const char *s)
{
	call(SYS_write, fd, s, length(s));
}

static void
put_number(const char *name, u64 value, int hex)
{
	char text[24], *p = text + sizeof(text) - 1;
	u64 base = hex ? 16 : 10;

	*p = '\0';
	do {
		*--p = "0123456789abcdef"[value % base];
		value /= base;
	} while (value != 0);
	put(1, name);
	put(1, hex ? "=0x" : "=");
	put(1, p);
}

static int
same(const char *a, const char *b)
{
	while (*a != '\0' && *a == *b)
		a++, b++;
	return (*a == *b);
}

/* A number as C writes them; -1 and *bad for anything else. `*end` is where it stopped. */
static u64
number(const char *s, const char **end, int *bad)
{
	u64 value = 0, digit, base = 10;
	const char *first;

	if (s[0] == '0' && s[1] == 'x')
		base = 16, s += 2;
	for (first = s;; s++) {
		if (*s >= '0' && *s <= '9')
			digit = *s - '0';
		else if (base == 16 && *s >= 'a' && *s <= 'f')
			digit = *s - 'a' + 10;
		else
			break;
		value = value * base + digit;
	}
	if (s == first)
		*bad = 1;
	*end = s;
	return (value);
}

static int
fail(const char *what, long error)
{
	put(2, "vmmwitness: ");
	put(2, what);
	switch (-error) {
	case 0: put(2, "\n"); break;
	case 1: put(2, ": Operation not permitted\n"); break;
	case 3: put(2, ": No such process\n"); break;
	case 16: put(2, ": Device busy\n"); break;
	case 22: put(2, ": Invalid argument\n"); break;
	default: put(2, ": the kernel refused it\n"); break;
	}
	return (1);
}

static int
usage(void)
{
	put(2, "usage: vmmwitness dbregs get|set PID LWP [drN=...] | sentinel --cpu N --dr LIST [--watch]\n");
	return (64);
}

/* "dr0=0x..." words, separated by commas or alone. */
static int
parse(const char *s, struct dbregs *regs)
{
	int bad = 0, n;

	while (*s != '\0') {
		if (s[0] != 'd' || s[1] != 'r' || s[2] < '0' || s[2] > '7' || s[3] != '=')
			return (0);
		n = s[2] - '0';
		regs->dr[n] = number(s + 4, &s, &bad);
		if (bad || (*s != '\0' && *s != ','))
			return (0);
		if (*s == ',')
			s++;
	}
	return (1);
}

static void
show(const struct dbregs *regs)
{
	put_number("dr0", regs->dr[0], 1);
	put_number(" dr1", regs->dr[1], 1);
	put_number(" dr2", regs->dr[2], 1);
	put_number(" dr3", regs->dr[3], 1);
	put_number(" dr6", regs->dr[6], 1);
	put_number(" dr7", regs->dr[7], 1);
	put(1, "\n");
}

static long
ptrace(int request, long pid, u64 address, long data)
{
	return (call(SYS_ptrace, request, pid, address, data));
}

/* --- dbregs ------------------------------------------------------------------------------------------------------- */

static int
dbregs(int argc, char **argv)
{
	struct dbregs regs;
	const char *end;
	int bad = 0, setting, status, i;
	long pid, lwp, error;

	if (argc < 5)
		return (usage());
	setting = same(argv[2], "set");
	pid = (long)number(argv[3], &end, &bad);
	lwp = (long)number(argv[4], &end, &bad);
	if (bad || *end != '\0' || (!setting && !same(argv[2], "get")))
		return (usage());
	error = ptrace(PT_ATTACH, pid, 0, 0);
	if (error < 0)
		return (fail("the process cannot be attached to", error));
	call(SYS_wait4, pid, &status, 0, 0);
	error = ptrace(PT_GETDBREGS, lwp, (u64)&regs, 0);
	if (error == 0 && setting) {
		for (i = 5; i < argc && error == 0; i++)
			if (!parse(argv[i], &regs))
				error = -22;
		if (error == 0)
			error = ptrace(PT_SETDBREGS, lwp, (u64)&regs, 0);
		if (error == 0)
			error = ptrace(PT_GETDBREGS, lwp, (u64)&regs, 0);
	}
	/* Address 1: go on where it was stopped; no signal is left behind. */
	ptrace(PT_DETACH, pid, 1, 0);
	if (error < 0)
		return (fail("the thread's debug registers", error));
	show(&regs);
	return (0);
}

/* --- bases -------------------------------------------------------------------------------------------------------- */

/* What a thread has in user mode; the thread is stopped. */
static long
get_bases(long lwp, u64 *fsbase, u64 *gsbase)
{
	long error = ptrace(PT_GETFSBASE, lwp, (u64)fsbase, 0);

	return (error < 0 ? error : ptrace(PT_GETGSBASE, lwp, (u64)gsbase, 0));
}

static void
show_bases(u64 fsbase, u64 gsbase)
{
	put_number("fsbase", fsbase, 1);
	put_number(" gsbase", gsbase, 1);
	put(1, "\n");
}

static int
bases(int argc, char **argv)
{
	u64 fsbase = 0, gsbase = 0;
	const char *end;
	int bad = 0, status;
	long pid, lwp, error;

	if (argc != 4)
		return (usage());
	pid = (long)number(argv[2], &end, &bad);
	bad |= *end != '\0';
	lwp = (long)number(argv[3], &end, &bad);
	if (bad || *end != '\0')
		return (usage());
	error = ptrace(PT_ATTACH, pid, 0, 0);
	if (error < 0)
		return (fail("the process cannot be attached to", error));
	call(SYS_wait4, pid, &status, 0, 0);
	error = get_bases(lwp, &fsbase, &gsbase);
	ptrace(PT_DETACH, pid, 1, 0);
	if (error < 0)
		return (fail("the thread's bases", error));
	show_bases(fsbase, gsbase);
	return (0);
}

/* --- sentinel ----------------------------------------------------------------------------------------------------- */

static void
child(struct shared *shared)
{
	struct { long seconds, nanoseconds; } pause = { 0, 1000000 };
	u64 n;

	ptrace(PT_TRACE_ME, 0, 0, 0);
	call(SYS_kill, call(SYS_getpid, 0), SIGSTOP);
	for (n = 1;; n++) {
		shared->touching = 1;
		__asm volatile("" ::: "memory");
		shared->variable = n;
		__asm volatile("" ::: "memory");
		shared->touching = 0;
		shared->touches = n;
		/* Others run on this CPU in between: that is the point. */
		if (n % 8 == 0)
			call(SYS_nanosleep, &pause, 0);
	}
}

static int
stopped_by(int status)
{
	return ((status & 0xff) == 0x7f ? (status >> 8) & 0xff : 0);
}

static int
sentinel(int argc, char **argv)
{
	struct dbregs regs = { .dr = { [6] = 0xffff0ff0, [7] = 0x400 } };
	struct { int fd; short events, revents; } input = { 0, 1, 0 };
	struct shared *shared;
	const char *end;
	char byte[64];
	u64 hits = 0, foreign = 0, fsbase = 0, gsbase = 0, mask[16] = { 0 };
	long pid, error, ended = 0;
	int bad = 0, cpu = -1, watch = 0, status, i, signal;

	for (i = 2; i < argc; i++) {
		if (same(argv[i], "--watch"))
			watch = 1;
		else if (i + 1 < argc && same(argv[i], "--cpu"))
			cpu = (int)number(argv[++i], &end, &bad);
		else if (i + 1 < argc && same(argv[i], "--dr"))
			bad |= !parse(argv[++i], &regs);
		else if (i + 1 < argc && same(argv[i], "--fsbase"))
			fsbase = number(argv[++i], &end, &bad);
		else if (i + 1 < argc && same(argv[i], "--gsbase"))
			gsbase = number(argv[++i], &end, &bad);
		else
			return (usage());
	}
	if (bad || cpu < 0 || cpu >= 256)
		return (usage());
	error = call(SYS_mmap, 0, 4096, PROT_READ_WRITE, MAP_SHARED_ANON, -1, 0);
	if (error < 0)
		return (fail("mmap", error));
	shared = (struct shared *)error;
	if (watch) {
		regs.dr[0] = (u64)&shared->variable;
		/* Local enable 0, a write of eight bytes. */
		regs.dr[7] |= 0x400 | 1 | 0x90000;
	}
	pid = call(SYS_fork, 0);
	if (pid < 0)
		return (fail("fork", pid));
	if (pid == 0)
		child(shared);
	call(SYS_wait4, pid, &status, 0, 0);
	mask[cpu / 64] = 1UL << cpu % 64;
	/* The kernel's set is 32 bytes on older releases and 128 on newer ones; longer ones may hold zeros only. */
	error = call(SYS_cpuset_setaffinity, CPU_LEVEL_WHICH, CPU_WHICH_PID, pid, sizeof(mask), mask);
	if (error < 0)
		error = call(SYS_cpuset_setaffinity, CPU_LEVEL_WHICH, CPU_WHICH_PID, pid, 32, mask);
	if (error == 0)
		error = ptrace(PT_SETDBREGS, pid, (u64)&regs, 0);
	if (error == 0)
		error = ptrace(PT_SETFSBASE, pid, (u64)&fsbase, 0);
	if (error == 0)
		error = ptrace(PT_SETGSBASE, pid, (u64)&gsbase, 0);
	if (error < 0) {
		call(SYS_kill, pid, SIGKILL);
		return (fail("the sentinel's CPU, debug registers or bases", error));
	}
	ptrace(PT_CONTINUE, pid, 1, 0);
	put_number("address", (u64)&shared->variable, 1);
	put(1, "\n");
	for (;;) {
		while (call(SYS_wait4, pid, &status, WNOHANG, 0) == pid) {
			signal = stopped_by(status);
			if (signal == SIGSTOP && ended)
				goto done;
			if (signal == 0)
				return (fail("the sentinel died", 0));
			if (signal == SIGTRAP) {
				if (watch && shared->touching && shared->variable == shared->touches + 1)
					hits++;
				else
					foreign++;
				signal = 0;
			}
			ptrace(PT_CONTINUE, pid, 1, signal == SIGSTOP ? 0 : signal);
		}
		if (!ended && call(SYS_poll, &input, 1, 1) > 0 && call(SYS_read, 0, byte, sizeof(byte)) <= 0)
			ended = 1;
		/* It has to have run; and it is stopped between two touches, so that hits and touches agree. */
		if (ended && shared->touches > 0 && !shared->touching)
			call(SYS_kill, pid, SIGSTOP);
	}
done:
	error = ptrace(PT_GETDBREGS, pid, (u64)&regs, 0);
	if (error == 0)
		error = get_bases(pid, &fsbase, &gsbase);
	call(SYS_kill, pid, SIGKILL);
	if (error < 0)
		return (fail("the sentinel's debug registers or bases", error));
	/* Stopped behind a touch that had hit, but before it was counted: the touch was made. */
	put_number("touches", shared->touching && shared->variable > shared->touches ? shared->variable : shared->touches, 0);
	put_number(" hits", hits, 0);
	put_number(" foreign", foreign, 0);
	put(1, " ");
	show(&regs);
	show_bases(fsbase, gsbase);
	return (0);
}

int run(int argc, char **argv);

int
run(int argc, char **argv)
{
	if (argc >= 2 && same(argv[1], "dbregs"))
		return (dbregs(argc, argv));
	if (argc >= 2 && same(argv[1], "bases"))
		return (bases(argc, argv));
	if (argc >= 2 && same(argv[1], "sentinel"))
		return (sentinel(argc, argv));
	return (usage());
}
