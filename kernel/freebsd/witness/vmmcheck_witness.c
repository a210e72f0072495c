/*
 * vmmcheck_witness: plants debug registers and DEBUGCTL on a host CPU and reads them back, while guests run there.
 *
 *   sysctl debug.vmmcheck.plant="cpu=1 dr0=0x... dr1=0x... dr2=0x... dr3=0x... dr6=0x... dr7=0x... debugctl=0x..."
 *   sysctl -n debug.vmmcheck.state.1        dr0=0x... dr1=0x... ... debugctl=0x...
 *   sysctl debug.vmmcheck.touch="cpu=1 count=100"; sysctl -n debug.vmmcheck.hits
 *   sysctl -n debug.vmmcheck.variable       address of the variable that `touch` writes
 *
 * A thread that has no debug registers of its own neither saves nor loads any when it is switched, so that what is
 * planted stays in the CPU until somebody changes it. That somebody is what the suite looks for.
 *
 * Every address that DR7 enables has to be the module's own variable or one that nothing in the kernel touches: the
 * harness sees to it. A hit on the variable is taken by a debugger backend, which is in place only while a touch is under
 * way; a hit on anything else goes where it would have gone without this module. Unloading puts reset values into what was planted.
 */

#include <sys/param.h>
#include <sys/systm.h>
#include <sys/kdb.h>
#include <sys/kernel.h>
#include <sys/lock.h>
#include <sys/malloc.h>
#include <sys/module.h>
#include <sys/mutex.h>
#include <sys/proc.h>
#include <sys/sched.h>
#include <sys/smp.h>
#include <sys/sx.h>
#include <sys/sysctl.h>

#include <machine/cpufunc.h>
#include <machine/specialreg.h>
#include <machine/trap.h>

#define	DR6_INACTIVE	0xffff0ff0UL
#define	DR7_INACTIVE	0x400UL

struct state {
	uint64_t dr0, dr1, dr2, dr3, dr6, dr7, debugctl;
};

static struct sx lock;
static struct sysctl_ctx_list nodes;
static bool planted[MAXCPU];
static uint64_t debugctl_before[MAXCPU];
static int last_cpu;
/* Alone in its cache line, and on an address that a watch of eight bytes fits on. */
static volatile uint64_t variable __aligned(64);
static volatile uint64_t hits;
static volatile bool touching;

/* --- the CPU ------------------------------------------------------------------------------------------------------ */

static void
bind(int cpu)
{
	thread_lock(curthread);
	sched_bind(curthread, cpu);
	thread_unlock(curthread);
}

static void
unbind(void)
{
	thread_lock(curthread);
	sched_unbind(curthread);
	thread_unlock(curthread);
}

static void
read_state(int cpu, struct state *s)
{
	bind(cpu);
	/* In one go: nobody else runs on this CPU between two of these reads. */
	critical_enter();
	s->dr0 = rdr0();
	s->dr1 = rdr1();
	s->dr2 = rdr2();
	s->dr3 = rdr3();
	s->dr6 = rdr6();
	s->dr7 = rdr7();
	s->debugctl = rdmsr(MSR_DEBUGCTLMSR);
	critical_exit();
	unbind();
}

static void
write_state(int cpu, const struct state *s)
{
	bind(cpu);
	critical_enter();
	if (!planted[cpu])
		debugctl_before[cpu] = rdmsr(MSR_DEBUGCTLMSR);
	planted[cpu] = true;
	/* Nothing is armed while addresses change. */
	load_dr7(DR7_INACTIVE);
	load_dr0(s->dr0);
	load_dr1(s->dr1);
	load_dr2(s->dr2);
	load_dr3(s->dr3);
	load_dr6(s->dr6);
	wrmsr(MSR_DEBUGCTLMSR, s->debugctl);
	load_dr7(s->dr7);
	critical_exit();
	unbind();
}

/* --- hits --------------------------------------------------------------------------------------------------------- */

static struct kdb_dbbe *backend_before;

static int
take_hit(int type, int code)
{
	uint64_t dr[4] = { rdr0(), rdr1(), rdr2(), rdr3() };
	int n;

	if (type == T_TRCTRAP && touching) {
		for (n = 0; n < 4; n++) {
			if ((code & 1 << n) != 0 && dr[n] - (uint64_t)&variable < sizeof(variable)) {
				hits++;
				return (1);
			}
		}
	}
	if (backend_before != NULL && backend_before->dbbe_trap != NULL)
		return (backend_before->dbbe_trap(type, code));
	return (0);
}

static struct kdb_dbbe backend = {
	.dbbe_name = "vmmcheck",
	.dbbe_trap = take_hit,
	.dbbe_active = 0,
};

/* --- words -------------------------------------------------------------------------------------------------------- */

/* "name=value" words; whether `name` is there. Values are numbers as strtouq(9) takes them. */
static bool
word(const char *text, const char *name, uint64_t *value)
{
	size_t length = strlen(name);
	const char *p;
	char *end;

	for (p = text; (p = strstr(p, name)) != NULL; p += length) {
		if ((p == text || p[-1] == ' ') && p[length] == '=') {
			*value = strtouq(p + length + 1, &end, 0);
			return (end != p + length + 1 && (*end == '\0' || *end == ' '));
		}
	}
	return (false);
}

static bool
cpu_of(const char *text, int *cpu)
{
	uint64_t value;

	if (!word(text, "cpu", &value) || value > mp_maxid || CPU_ABSENT((int)value))
		return (false);
	*cpu = (int)value;
	return (true);
}

static int
show(struct sysctl_req *req, int cpu)
{
	struct state s;
	char text[256];

	read_state(cpu, &s);
	snprintf(text, sizeof(text), "dr0=%#jx dr1=%#jx dr2=%#jx dr3=%#jx dr6=%#jx dr7=%#jx debugctl=%#jx",
	    (uintmax_t)s.dr0, (uintmax_t)s.dr1, (uintmax_t)s.dr2, (uintmax_t)s.dr3, (uintmax_t)s.dr6, (uintmax_t)s.dr7,
	    (uintmax_t)s.debugctl);
	return (SYSCTL_OUT(req, text, strlen(text) + 1));
}

/* What was written; the buffer is the caller's. */
static int
take(struct sysctl_req *req, char *text, size_t size)
{
	int error;

	if (req->newlen >= size)
		return (EINVAL);
	error = SYSCTL_IN(req, text, req->newlen);
	text[req->newlen] = '\0';
	return (error);
}

/* --- sysctls ------------------------------------------------------------------------------------------------------ */

static int
plant(SYSCTL_HANDLER_ARGS)
{
	struct state s = { .dr6 = DR6_INACTIVE, .dr7 = DR7_INACTIVE };
	char text[512];
	int cpu, error;

	sx_xlock(&lock);
	error = show(req, last_cpu);
	if (error == 0 && req->newptr != NULL) {
		error = take(req, text, sizeof(text));
		if (error == 0 && !cpu_of(text, &cpu))
			error = EINVAL;
		if (error == 0) {
			(void)word(text, "dr0", &s.dr0);
			(void)word(text, "dr1", &s.dr1);
			(void)word(text, "dr2", &s.dr2);
			(void)word(text, "dr3", &s.dr3);
			(void)word(text, "dr6", &s.dr6);
			(void)word(text, "dr7", &s.dr7);
			(void)word(text, "debugctl", &s.debugctl);
			/* Upper halves fault on MOV, and GD would fault on our own next look. */
			if ((s.dr6 | s.dr7) >> 32 != 0 || (s.dr7 & 0x2000) != 0)
				error = EINVAL;
		}
		if (error == 0) {
			write_state(cpu, &s);
			last_cpu = cpu;
		}
	}
	sx_xunlock(&lock);
	return (error);
}

static int
state(SYSCTL_HANDLER_ARGS)
{
	int error;

	sx_xlock(&lock);
	error = show(req, (int)arg2);
	sx_xunlock(&lock);
	return (error);
}

static int
touch(SYSCTL_HANDLER_ARGS)
{
	uint64_t count, n;
	char text[128];
	int cpu, error;

	error = SYSCTL_OUT(req, "", 1);
	if (error != 0 || req->newptr == NULL)
		return (error);
	error = take(req, text, sizeof(text));
	if (error != 0)
		return (error);
	if (!cpu_of(text, &cpu) || !word(text, "count", &count) || count > 1000000)
		return (EINVAL);
	sx_xlock(&lock);
	hits = 0;
	backend_before = kdb_dbbe;
	kdb_dbbe = &backend;
	bind(cpu);
	touching = true;
	for (n = 1; n <= count; n++)
		variable = n;
	touching = false;
	unbind();
	kdb_dbbe = backend_before;
	sx_xunlock(&lock);
	return (0);
}

static int
address(SYSCTL_HANDLER_ARGS)
{
	char text[32];

	snprintf(text, sizeof(text), "%#jx", (uintmax_t)(uintptr_t)&variable);
	return (SYSCTL_OUT(req, text, strlen(text) + 1));
}

static int
load(void)
{
	struct sysctl_oid *root, *states;
	char name[12];
	int cpu;

	sx_init(&lock, "vmmcheck");
	sysctl_ctx_init(&nodes);
	root = SYSCTL_ADD_NODE(&nodes, SYSCTL_STATIC_CHILDREN(_debug), OID_AUTO, "vmmcheck", CTLFLAG_RW | CTLFLAG_MPSAFE,
	    NULL, "witness of the host's debug registers");
	SYSCTL_ADD_PROC(&nodes, SYSCTL_CHILDREN(root), OID_AUTO, "plant", CTLTYPE_STRING | CTLFLAG_RW | CTLFLAG_MPSAFE,
	    NULL, 0, plant, "A", "write registers of a CPU");
	SYSCTL_ADD_PROC(&nodes, SYSCTL_CHILDREN(root), OID_AUTO, "touch", CTLTYPE_STRING | CTLFLAG_RW | CTLFLAG_MPSAFE,
	    NULL, 0, touch, "A", "write the variable on a CPU");
	SYSCTL_ADD_PROC(&nodes, SYSCTL_CHILDREN(root), OID_AUTO, "variable", CTLTYPE_STRING | CTLFLAG_RD | CTLFLAG_MPSAFE,
	    NULL, 0, address, "A", "address of the variable");
	SYSCTL_ADD_U64(&nodes, SYSCTL_CHILDREN(root), OID_AUTO, "hits", CTLFLAG_RD, __DEVOLATILE(uint64_t *, &hits), 0,
	    "hits of the last touch");
	states = SYSCTL_ADD_NODE(&nodes, SYSCTL_CHILDREN(root), OID_AUTO, "state", CTLFLAG_RD | CTLFLAG_MPSAFE, NULL,
	    "registers of a CPU");
	if (root == NULL || states == NULL)
		return (ENOMEM);
	CPU_FOREACH(cpu) {
		snprintf(name, sizeof(name), "%d", cpu);
		SYSCTL_ADD_PROC(&nodes, SYSCTL_CHILDREN(states), OID_AUTO, name,
		    CTLTYPE_STRING | CTLFLAG_RD | CTLFLAG_MPSAFE, NULL, cpu, state, "A", "registers of this CPU");
	}
	return (0);
}

static void
unload(void)
{
	struct state s = { .dr6 = DR6_INACTIVE, .dr7 = DR7_INACTIVE };
	int cpu;

	/* Waits for handlers that run. */
	sysctl_ctx_free(&nodes);
	CPU_FOREACH(cpu) {
		if (planted[cpu]) {
			s.debugctl = debugctl_before[cpu];
			write_state(cpu, &s);
		}
	}
	sx_destroy(&lock);
}

static int
event(module_t module, int what, void *data)
{
	switch (what) {
	case MOD_LOAD:
		return (load());
	case MOD_UNLOAD:
		unload();
		return (0);
	default:
		return (EOPNOTSUPP);
	}
}

static moduledata_t module_data = { "vmmcheck_witness", event, NULL };

DECLARE_MODULE(vmmcheck_witness, module_data, SI_SUB_DRIVERS, SI_ORDER_ANY);
MODULE_VERSION(vmmcheck_witness, 1);
