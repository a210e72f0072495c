#include "cpufunc.h"
#include "vmm_internal.h"

#define VMM_STAT_TEXT(symbol, text, scope)	{ text, scope },
static const struct {
	const char *text;
	enum vmm_stat_scope scope;
} vmm_stats[VMM_STAT_COUNT] = { VMM_STATS(VMM_STAT_TEXT) };

void
vmm_stat_incr(struct vcpu *vcpu, enum vmm_stat stat, uint64_t by)
{
	vcpu->stats[stat] += by;
}

void
vmm_stat_set(struct vcpu *vcpu, enum vmm_stat stat, uint64_t val)
{
	vcpu->stats[stat] = val;
}

size_t
vmm_stat_print(struct vcpu *vcpu, char *buf, size_t size)
{
	enum vmm_stat_scope own = vmm_ops == &vmm_ops_amd ? STAT_AMD : STAT_INTEL;
	size_t used = 0;

	vmm_stat_set(vcpu, VMM_MEM_RESIDENT, pmap_resident(vcpu->vm->pmap) * PAGE_SIZE);
	for (int i = 0; i < VMM_STAT_COUNT && used < size; i++) {
		if (vmm_stats[i].scope == STAT_ALL || vmm_stats[i].scope == own)
			used += (size_t)snprintf(buf + used, size - used, "%s\t%lu\n", vmm_stats[i].text, vcpu->stats[i]);
	}
	return (used < size ? used : size);
}
