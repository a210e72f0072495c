/* Integer types, and the error numbers of FreeBSD's sys/errno.h that cross the control channel. */
#ifndef TYPES_H
#define TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENOENT		2
#define EINTR		4
#define ENXIO		6
#define EBADF		9
#define ENOMEM		12
#define EFAULT		14
#define EBUSY		16
#define EEXIST		17
#define ENODEV		19
#define EINVAL		22
#define ENOTTY		25
#define ENOSPC		28
#define EOPNOTSUPP	45
#define ENAMETOOLONG	63

#define nitems(array)	(sizeof(array) / sizeof((array)[0]))
#define howmany(n, unit) (((n) + (unit) - 1) / (unit))

#define PAGE_SIZE	4096u
#define PAGE_MASK	(PAGE_SIZE - 1)
#define trunc_page(a)	((a) & ~(uint64_t)PAGE_MASK)
#define round_page(a)	(((a) + PAGE_MASK) & ~(uint64_t)PAGE_MASK)

/* CPUs the kernel is built for. */
#define MAXCPU		4

#endif
