/*
 * The contexts of VT-x: what belongs to a guest and is not in the VMCS, and what belongs to the host while the guest
 * runs. Members and their order are those of FreeBSD 13.2. Offsets for assembly stand in vmx_assym.h, checked there.
 */
#ifndef VMX_H
#define VMX_H

#include <stdbool.h>
#include <stdint.h>

#include "vmcs.h"

struct vm;
struct vcpu;
struct pmap;

struct vmxctx {
	uint64_t guest_rdi;
	uint64_t guest_rsi;
	uint64_t guest_rdx;
	uint64_t guest_rcx;
	uint64_t guest_r8;
	uint64_t guest_r9;
	uint64_t guest_rax;
	uint64_t guest_rbx;
	uint64_t guest_rbp;
	uint64_t guest_r10;
	uint64_t guest_r11;
	uint64_t guest_r12;
	uint64_t guest_r13;
	uint64_t guest_r14;
	uint64_t guest_r15;
	uint64_t guest_cr2;
	uint64_t guest_dr0;
	uint64_t guest_dr1;
	uint64_t guest_dr2;
	uint64_t guest_dr3;
	uint64_t guest_dr6;

	uint64_t host_r15;
	uint64_t host_r14;
	uint64_t host_r13;
	uint64_t host_r12;
	uint64_t host_rbp;
	uint64_t host_rsp;
	uint64_t host_rbx;
	uint64_t host_dr0;
	uint64_t host_dr1;
	uint64_t host_dr2;
	uint64_t host_dr3;
	uint64_t host_dr6;
	uint64_t host_dr7;
	uint64_t host_debugctl;
	int	 host_tf;

	int	 inst_fail_status;	/* VM_FAIL_*, when the entry itself failed */
	struct pmap *pmap;		/* nested page tables of this run */
};

/* What vmx_enter_guest() returns. */
#define VMX_GUEST_VMEXIT	0
#define VMX_VMRESUME_ERROR	1
#define VMX_VMLAUNCH_ERROR	2

/* MSRs that are switched in software (vmx_msr.c). */
enum { IDX_MSR_LSTAR, IDX_MSR_CSTAR, IDX_MSR_STAR, IDX_MSR_SF_MASK, IDX_MSR_KGSBASE, IDX_MSR_PAT, IDX_MSR_TSC_AUX,
    GUEST_MSR_NUM };

struct vmxcap {
	uint32_t set;			/* bit per enum vm_cap_type that is on */
	uint32_t pin_ctls;
	uint32_t proc_ctls;
	uint32_t proc_ctls2;
	uint32_t exc_bitmap;
};

#define NOCPU	(-1)

/* One per vCPU. */
struct vmx_vcpu {
	struct vmx	*vmx;
	struct vcpu	*vcpu;
	struct vmcs	*vmcs;
	uint64_t	vmcs_pa;
	/* %rsp points here right behind a VM exit: whatever can come then, NMIs, has a stack of its own. */
	struct vmxctx	ctx;
	struct vmxcap	cap;
	uint64_t	guest_msrs[GUEST_MSR_NUM];
	uint64_t	guest_xcr0;
	uint64_t	nextrip;	/* where the guest was to continue after the last exit */
	int		lastcpu;	/* host CPU of the last run, NOCPU before the first */
	uint16_t	vpid;		/* 0: none was left */
	bool		loaded;		/* its VMCS is current on the CPU that runs it */
	int		vcpuid;
	uint32_t	set_dr_valid;	/* only used by seeded defects */
	uint64_t	set_dr[8];
};

/* One per VM. */
struct vmx {
	struct vm	*vm;
	uint8_t		*msr_bitmap;	/* one page */
	uint64_t	eptp;
	long		eptgen[4];	/* by host CPU: generation of the nested page tables it last ran with */
};

/*
 * Enter the guest of the current VMCS with VMRESUME, or VMLAUNCH unless launched. VMX_GUEST_VMEXIT after an exit;
 * otherwise the entry failed and inst_fail_status says how. Interrupts are off.
 */
int	vmx_enter_guest(struct vmxctx *vmxctx, struct vmx *vmx, int launched);

/* Where the processor continues after an exit; either is a tail of vmx_enter_guest(). */
void	vmx_exit_guest(void);
void	vmx_exit_guest_flush_rsb(void);

/* Call an interrupt handler as if the interrupt had arrived now. */
void	vmx_call_isr(uintptr_t entry);

#endif
