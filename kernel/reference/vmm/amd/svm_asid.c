#include <stdbool.h>
#include <stdint.h>

#include "vmm.h"
#include "svm_internal.h"

#define	ASID_HOST	0	/* the host's own; VMRUN refuses it for a guest */

static uint32_t nasid;
static bool flush_by_asid;
static struct asid asid[MAXCPU];	/* the last one given out on each CPU */

void
asid_init(uint32_t count, bool by_asid)
{
	nasid = count;
	flush_by_asid = by_asid;
	for (int cpu = 0; cpu < MAXCPU; cpu++) {
		asid[cpu].gen = 1;
		asid[cpu].num = ASID_HOST;
	}
}

uint32_t
asid_count(void)
{
	return (nasid);
}

/*
 * Choose ASID and TLB flush for the next VMRUN on this CPU. An ASID is valid for one generation of one CPU's
 * ASID space; a vCPU whose ASID is from another takes the next number. Changed nested page tables make the old
 * translations of the same ASID stale.
 */
void
asid_update(struct svm_vcpu *vcpu, int cpu, long eptgen)
{
	struct vmcb_ctrl *ctrl = &vcpu->vmcb->ctrl;
	bool remapped = vcpu->eptgen != eptgen;

	ctrl->tlb_ctrl = VMCB_TLB_FLUSH_NOTHING;
	if (vcpu->asid.gen == asid[cpu].gen && !remapped)
		return;
	if (vcpu->asid.gen == asid[cpu].gen && flush_by_asid) {
		ctrl->tlb_ctrl = VMCB_TLB_FLUSH_GUEST;
	} else {
		asid[cpu].num++;
		if (asid[cpu].num >= nasid) {
			asid[cpu].gen++;
			asid[cpu].num = ASID_HOST + 1;
			/* Every number may be in the TLB from before. */
			ctrl->tlb_ctrl = VMCB_TLB_FLUSH_ALL;
		}
		vcpu->asid = asid[cpu];
		vmcb_set_asid(vcpu, asid[cpu].num);
		if (flush_by_asid && ctrl->tlb_ctrl == VMCB_TLB_FLUSH_NOTHING)
			ctrl->tlb_ctrl = VMCB_TLB_FLUSH_GUEST;
	}
	vcpu->eptgen = eptgen;
}
