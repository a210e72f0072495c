/* What the control channel's files share: ctl.c has the frames, ctl_requests.c the table, ctl_host.c and ctl_vm.c the
 * answers. */
#ifndef CTL_INTERNAL_H
#define CTL_INTERNAL_H

#include "kern.h"

#define CTL_BODY_MAX	8192

/* Answer one request: errno; the payload behind it goes to `out`, *used counts it (4 on entry, for the errno). */
int	ctl_request(uint8_t code, const uint8_t *in, size_t length, uint8_t *out, size_t *used);

/* A reader of the request's payload and a writer of the answer. */
struct args {
	const uint8_t *in;
	size_t left;
	uint8_t *out;
	size_t *used;
	bool bad;
};

static inline uint64_t
take(struct args *a, size_t bytes)
{
	uint64_t value = 0;

	if (a->left < bytes) {
		a->bad = true;
		return (0);
	}
	memcpy(&value, a->in, bytes);
	a->in += bytes;
	a->left -= bytes;
	return (value);
}

static inline void
give(struct args *a, const void *data, size_t bytes)
{
	memcpy(a->out, data, bytes);
	a->out += bytes;
	*a->used += bytes;
}

static inline void
give64(struct args *a, uint64_t value)
{
	give(a, &value, 8);
}

static inline void
give32(struct args *a, uint32_t value)
{
	give(a, &value, 4);
}

struct vm;

/* ctl_host.c: the machine, its witnesses, threads and probes; false = not one of its codes. */
bool	ctl_host_request(uint8_t code, struct args *a, int *error);
/* ctl_vm.c: everything about one VM, by its name. */
int	ctl_vm_request(uint8_t code, struct args *a);
int	ctl_rom_page(struct args *a);
void	ctl_give_pcb(struct args *a, const struct pcb *pcb);
void	ctl_take_pcb(struct args *a, struct pcb *pcb);

#endif
