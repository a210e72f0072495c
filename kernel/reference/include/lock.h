/*
 * Spin locks. Holding one keeps interrupts off on this CPU; NMI handlers take none.
 */
#ifndef LOCK_H
#define LOCK_H

#include "types.h"

struct spinlock {
	volatile uint32_t locked;
	int owner;			/* CPU, for the diagnosis of recursion */
	const char *name;
};

#define SPINLOCK_INIT(n)	{ .locked = 0, .owner = -1, .name = (n) }

void	spin_init(struct spinlock *lock, const char *name);
void	spin_lock(struct spinlock *lock);
void	spin_unlock(struct spinlock *lock);
bool	spin_held(const struct spinlock *lock);

/* Interrupts off until the matching spinlock_exit(); nests. */
void	spinlock_enter(void);
void	spinlock_exit(void);

#endif
