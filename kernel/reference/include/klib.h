/*
 * What a C library would give, memory, messages and panics.
 */
#ifndef KLIB_H
#define KLIB_H

#include <stdarg.h>

#include "types.h"

void	*memcpy(void *to, const void *from, size_t len);
void	*memmove(void *to, const void *from, size_t len);
void	*memset(void *to, int byte, size_t len);
int	 memcmp(const void *a, const void *b, size_t len);
size_t	 strlen(const char *s);
int	 strcmp(const char *a, const char *b);
int	 strncmp(const char *a, const char *b, size_t len);
size_t	 strlcpy(char *to, const char *from, size_t size);
uint32_t crc32(uint32_t crc, const void *data, size_t len);

/* %d %u %x %p %s %c with l and ll, zero padding and width; a returned length that reaches `size` was cut. */
int	 kvsnprintf(char *buf, size_t size, const char *fmt, va_list ap);
int	 ksnprintf(char *buf, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* A line of the kernel's log; goes out as KLOG event. Not from NMI context and not between CLGI and STGI. */
void	 klog(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Says what and where, as PANIC event, and stops all CPUs. Callable anywhere. */
void	 panic(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#define KASSERT(cond, ...)	do { if (__builtin_expect(!(cond), 0)) panic(__VA_ARGS__); } while (0)

/*
 * Memory. Kernel addresses are physical addresses. kzalloc() gives zeroed memory of any size, contigalloc() zeroed
 * pages that follow each other; both return NULL when there is none left and may be called with interrupts off.
 */
void	*kzalloc(size_t size);
void	 kfree(void *p);
void	*contigalloc(size_t pages);
void	 contigfree(void *p, size_t pages);
size_t	 pages_free(void);

static inline uint64_t
vtophys(const void *p)
{
	return ((uint64_t)(uintptr_t)p);
}

/*
 * Run fn(arg) on every CPU, this one included, and return when all have. Thread context with interrupts on only;
 * on the other CPUs fn runs in the interrupt, so it must not wait.
 */
void	 smp_rendezvous(void (*fn)(void *), void *arg);
/* Run fn(arg) on one CPU. */
void	 smp_rendezvous_cpu(int cpu, void (*fn)(void *), void *arg);

/* A tunable of the last module load: `hw.vmm.svm.vmcb_clean` and the like. False when it was not set. */
bool	 tunable_fetch(const char *name, uint64_t *val);

#endif
