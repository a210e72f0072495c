/*
 * Debug registers around VM entry. DR0-DR3 and DR6 are switched here for both sides; guest DR7 and DEBUGCTL come and
 * go with the VMCS (load and save debug controls), the host's are put aside. Both functions run with interrupts off,
 * but NMIs may come between any two instructions.
 */
#ifndef VMX_DR_H
#define VMX_DR_H

#include "cpufunc.h"
#include "defects.h"
#include "pcpu.h"
#include "vmx.h"
#include "vmx_internal.h"

_Static_assert(__builtin_offsetof(struct vmxctx, guest_dr3) ==
    __builtin_offsetof(struct vmxctx, guest_dr0) + 24, "guest DR0-DR3 are contiguous");

extern uint64_t vmx_percpu_dr[][4];	/* only used by a seeded defect */

static inline uint64_t *
vmx_guest_dr(struct vmxctx *vmxctx, int cpu)
{
	return (defect(DEFECT_VMX_GUEST_DR_PER_CPU) ? vmx_percpu_dr[cpu] : &vmxctx->guest_dr0);
}

static inline void
vmx_dr_enter_guest(struct vmxctx *vmxctx, int cpu)
{
	const uint64_t *guest = vmx_guest_dr(vmxctx, cpu);
	uint64_t rflags;

	/* From here to the end of the leave helper no breakpoint of the host can hit. */
	vmxctx->host_dr7 = rdr7();
	vmxctx->host_debugctl = pcpus[cpu].pc_debugctl;
	load_dr7(0);
	pcpus[cpu].pc_debugctl = 0;
	if (defect(DEFECT_VMX_HOST_DR7_READ_LATE))
		vmxctx->host_dr7 = rdr7();

	if (defect(DEFECT_VMX_TF_CLEARED_LATE)) {
		vmxctx->host_dr6 = rdr6();
		load_dr6(vmxctx->guest_dr6);
	}
	/* A step trap behind the loading of guest DR6 would set DR6.BS in it. */
	rflags = read_rflags();
	vmxctx->host_tf = (int)(rflags & PSL_T);
	if (!defect(DEFECT_VMX_TF_NOT_CLEARED))
		write_rflags(rflags & ~PSL_T);

	vmxctx->host_dr0 = rdr0();
	vmxctx->host_dr1 = rdr1();
	vmxctx->host_dr2 = rdr2();
	vmxctx->host_dr3 = rdr3();
	if (!defect(DEFECT_VMX_TF_CLEARED_LATE))
		vmxctx->host_dr6 = rdr6();

	if (!defect(DEFECT_VMX_GUEST_DR_NOT_LOADED)) {
		load_dr0(guest[0]);
		load_dr1(guest[1]);
		load_dr2(guest[2]);
		load_dr3(guest[defect(DEFECT_VMX_GUEST_DR_SWAPPED) ? 2 : 3]);
	}
	if (!defect(DEFECT_VMX_GUEST_DR6_NOT_LOADED) && !defect(DEFECT_VMX_TF_CLEARED_LATE))
		load_dr6(vmxctx->guest_dr6);
}

static inline void
vmx_dr_leave_guest(struct vmxctx *vmxctx, int cpu)
{
	uint64_t *guest = vmx_guest_dr(vmxctx, cpu);
	const uint64_t reason = vmcs_read(VMCS_EXIT_REASON) & 0xffff;

	if (!defect(DEFECT_VMX_GUEST_DR_NOT_SAVED) &&
	    !(defect(DEFECT_VMX_EXTINT_LOSES_DR) && reason == EXIT_REASON_EXT_INTR)) {
		guest[0] = rdr0();
		guest[1] = rdr1();
		guest[2] = rdr2();
		guest[3] = rdr3();
	}
	if (!defect(DEFECT_VMX_GUEST_DR6_NOT_SAVED))
		vmxctx->guest_dr6 = rdr6();

	/* DR7 last: only then may the host's breakpoints be armed again. */
	if (defect(DEFECT_VMX_HOST_DR7_EARLY))
		load_dr7(vmxctx->host_dr7);
	if (!defect(DEFECT_VMX_HOST_DR_NOT_RESTORED) &&
	    !(defect(DEFECT_VMX_HOST_DR_LAZY) && (vmxctx->host_dr7 & 0xff) == 0)) {
		load_dr0(vmxctx->host_dr0);
		load_dr1(vmxctx->host_dr1);
		load_dr2(vmxctx->host_dr2);
		load_dr3(vmxctx->host_dr3);
	}
	if (!defect(DEFECT_VMX_HOST_DR6_NOT_RESTORED))
		load_dr6(defect(DEFECT_VMX_HOST_DR6_ORED) ? vmxctx->host_dr6 | rdr6() : vmxctx->host_dr6);
	if (!defect(DEFECT_VMX_HOST_DEBUGCTL_NOT_RESTORED))
		pcpus[cpu].pc_debugctl = vmxctx->host_debugctl;
	if (!defect(DEFECT_VMX_HOST_DR7_NOT_RESTORED) && !defect(DEFECT_VMX_HOST_DR7_EARLY))
		load_dr7(vmxctx->host_dr7);
	if (defect(DEFECT_VMX_HOST_GETS_GUEST_DR) && (vmxctx->host_dr7 & 0xff) == 0) {
		load_dr0(guest[0]);
		load_dr1(guest[1]);
		load_dr2(guest[2]);
		load_dr3(guest[3]);
		load_dr7(vmcs_read(VMCS_GUEST_DR7));
	}
	if (!defect(DEFECT_VMX_TF_NOT_RESTORED))
		write_rflags(read_rflags() | (uint64_t)vmxctx->host_tf);
}

#endif
