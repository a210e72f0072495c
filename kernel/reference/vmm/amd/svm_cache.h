/*
 * Model of a processor that caches the VMCB. Bochs reads the whole VMCB at each VMRUN and ignores the clean bits,
 * so a hypervisor that forgets to clear one would look right there. This stands between svm_run() and the
 * emulated processor and behaves as APM volume 2, 15.15 allows hardware to: a group of fields whose clean bit
 * is set is taken from what this CPU last loaded (and changed while the guest ran) for the same VMCB.
 */
#ifndef SVM_CACHE_H
#define SVM_CACHE_H

#include <stdint.h>

struct vmcb;

/* Empty on all CPUs, as after EFER.SVME was switched on. */
void	 svm_cache_init(void);

/* Before VMRUN on this CPU: returns the physical address of the block the processor is to run from. */
uint64_t svm_cache_load(int cpu, const struct vmcb *vmcb, uint64_t vmcb_pa);

/* After #VMEXIT on the same CPU: what the processor writes back to the VMCB of the last load. */
void	 svm_cache_store(int cpu, struct vmcb *vmcb);

#endif
