/* Spin locks. Interrupt handlers take none, so interrupts may stay on. */
#include "cpufunc.h"
#include "kern.h"

void
mtx_lock_spin(struct mtx *mtx)
{
	while (__atomic_exchange_n(&mtx->owned, 1, __ATOMIC_ACQUIRE) != 0)
		cpu_pause();
}

void
mtx_unlock_spin(struct mtx *mtx)
{
	__atomic_store_n(&mtx->owned, 0, __ATOMIC_RELEASE);
}
