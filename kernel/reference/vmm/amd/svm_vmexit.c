#include <stdbool.h>
#include <stdint.h>

#include "vmm.h"
#include "cpufunc.h"
#include "defects.h"
#include "svm_internal.h"

#define	EFER_SVME	(1ull << 12)
#define	EFER_LMSLE	(1ull << 13)
#define	EFER_RAZ	0xfeull
#define	EFER_MBZ	0xffffffffffff0200ull

static enum vm_cpu_mode
svm_vcpu_mode(const struct vmcb_state *state)
{
	if ((state->efer & EFER_LMA) != 0)
		return ((state->cs.attrib & 0x200) != 0 ? CPU_MODE_64BIT : CPU_MODE_COMPATIBILITY);
	return ((state->cr0 & CR0_PE) != 0 ? CPU_MODE_PROTECTED : CPU_MODE_REAL);
}

static enum vm_paging_mode
svm_paging_mode(const struct vmcb_state *state)
{
	if ((state->cr0 & CR0_PG) == 0)
		return (PAGING_MODE_FLAT);
	if ((state->cr4 & CR4_PAE) == 0)
		return (PAGING_MODE_32);
	return ((state->efer & EFER_LME) != 0 ? PAGING_MODE_64 : PAGING_MODE_PAE);
}

static void
svm_paging_info(const struct vmcb_state *state, struct vm_guest_paging *paging)
{
	paging->cr3 = state->cr3;
	paging->cpl = state->cpl;
	paging->cpu_mode = svm_vcpu_mode(state);
	paging->paging_mode = svm_paging_mode(state);
}

/*
 * WRMSR to EFER. The guest sees SVME set, as the processor needs it, and may write it back; segment limits in long
 * mode are not offered. Long mode cannot change while paging is on (APM volume 2, 3.1.7).
 */
static void
svm_write_efer(struct svm_vcpu *vcpu, uint64_t newval)
{
	const struct vmcb_state *state = &vcpu->vmcb->state;
	bool paging = (state->cr0 & CR0_PG) != 0, long_mode;
	uint64_t val = newval & ~(EFER_RAZ | EFER_LMA);

	if ((newval & (EFER_MBZ | EFER_LMSLE)) != 0 || (((newval ^ state->efer) & EFER_LME) != 0 && paging)) {
		vm_inject_gp(vcpu->vcpu);
		return;
	}
	if ((val & EFER_LME) != 0 && paging)
		val |= EFER_LMA;
	/* With these defects no guest would get to long mode, and none could show what else they do. */
	long_mode = ((newval ^ state->efer) & EFER_LME) != 0;
	if (defect(DEFECT_SVM_EFER_UNMARKED) && !long_mode) {
		vcpu->vmcb->state.efer = val | EFER_SVME;
		return;
	}
	vmcb_write(vcpu, VM_REG_GUEST_EFER, val);
	if (defect(DEFECT_SVM_CLEAN_CR) && long_mode)
		vcpu->dirty |= VMCB_CACHE_CR;
}

static bool
svm_handle_msr(struct svm_vcpu *vcpu, struct vm_exit *vme)
{
	struct vmcb_state *state = &vcpu->vmcb->state;
	uint32_t num = (uint32_t)vcpu->swctx.sctx_rcx;
	bool write = vcpu->vmcb->ctrl.exitinfo1 != 0;
	uint64_t val = (vcpu->swctx.sctx_rdx << 32) | (uint32_t)state->rax;
	bool retu = false;
	int error;

	vmm_stat_incr(vcpu->vcpu, write ? VMEXIT_WRMSR : VMEXIT_RDMSR, 1);
	if (write && num == MSR_EFER) {
		svm_write_efer(vcpu, val);
		return (true);
	}
	if (write)
		error = lapic_msr(num) ? lapic_wrmsr(vcpu->vcpu, num, val, &retu) : svm_wrmsr(vcpu, num, val);
	else
		error = lapic_msr(num) ? lapic_rdmsr(vcpu->vcpu, num, &val, &retu) : svm_rdmsr(vcpu, num, &val);
	if (error != 0) {
		vme->exitcode = write ? VM_EXITCODE_WRMSR : VM_EXITCODE_RDMSR;
		vme->u.msr.code = num;
		vme->u.msr.wval = write ? val : 0;
		return (false);
	}
	if (!write) {
		state->rax = (uint32_t)val;
		vcpu->swctx.sctx_rdx = val >> 32;
	}
	return (!retu);
}

static bool
svm_handle_cpuid(struct svm_vcpu *vcpu)
{
	struct vmcb_state *state = &vcpu->vmcb->state;

	vmm_stat_incr(vcpu->vcpu, VMEXIT_CPUID, 1);
	return (x86_emulate_cpuid(vcpu->vcpu, &state->rax, &vcpu->swctx.sctx_rbx, &vcpu->swctx.sctx_rcx,
	    &vcpu->swctx.sctx_rdx) != 0);
}

/* String I/O needs the decode assists of later processors to find its memory operand; it is left unhandled. */
static void
svm_handle_io(struct svm_vcpu *vcpu, struct vm_exit *vme)
{
	const struct vmcb *vmcb = vcpu->vmcb;
	uint64_t info = vmcb->ctrl.exitinfo1;

	vmm_stat_incr(vcpu->vcpu, VMEXIT_INOUT, 1);
	if ((info & VMCB_IO_STR) != 0)
		return;
	vme->exitcode = VM_EXITCODE_INOUT;
	vme->u.inout.in = (info & VMCB_IO_IN) != 0;
	vme->u.inout.string = 0;
	vme->u.inout.rep = 0;
	vme->u.inout.bytes = VMCB_IO_SIZE(info);
	vme->u.inout.port = VMCB_IO_PORT(info);
	vme->u.inout.eax = (uint32_t)vmcb->state.rax;
}

static int
npf_fault_type(uint64_t info)
{
	if ((info & VMCB_NPF_INFO1_W) != 0)
		return (VM_PROT_WRITE);
	return ((info & VMCB_NPF_INFO1_ID) != 0 ? VM_PROT_EXECUTE : VM_PROT_READ);
}

/* RAM is paged in or refused by vm_run(); anything else that is data is a device, reached by emulation. */
static void
svm_handle_npf(struct svm_vcpu *vcpu, struct vm_exit *vme)
{
	const struct vmcb *vmcb = vcpu->vmcb;
	uint64_t info = vmcb->ctrl.exitinfo1;
	uint64_t gpa = vmcb->ctrl.exitinfo2;

	if ((info & VMCB_NPF_INFO1_RSV) != 0)
		return;
	if (vm_mem_allocated(vcpu->vcpu, gpa)) {
		vme->exitcode = VM_EXITCODE_PAGING;
		vme->inst_length = 0;
		vme->u.paging.gpa = gpa;
		vme->u.paging.fault_type = npf_fault_type(info);
		vmm_stat_incr(vcpu->vcpu, VMEXIT_NESTED_FAULT, 1);
	} else if ((info & VMCB_NPF_INFO1_ID) == 0) {
		vme->exitcode = VM_EXITCODE_INST_EMUL;
		vme->inst_length = 0;
		vme->u.inst_emul.gpa = gpa;
		vme->u.inst_emul.gla = VIE_INVALID_GLA;
		svm_paging_info(&vmcb->state, &vme->u.inst_emul.paging);
		vme->u.inst_emul.cs_base = (svm_vcpu_mode(&vmcb->state) == CPU_MODE_64BIT) ? 0 : vmcb->state.cs.base;
		vme->u.inst_emul.cs_d = (vmcb->state.cs.attrib & 0x400) != 0;
		vmm_stat_incr(vcpu->vcpu, VMEXIT_INST_EMUL, 1);
	}
}

/* NRIP is stored for intercepted instructions and for nothing else (APM volume 2, 15.7.1). */
static bool
nrip_valid(uint64_t exitcode)
{
	return (exitcode <= VMCB_EXIT_DR15_WRITE || (exitcode >= 0x065 && exitcode <= VMCB_EXIT_MSR) ||
	    (exitcode >= VMCB_EXIT_VMRUN && exitcode <= VMCB_EXIT_XSETBV));
}

bool
svm_vmexit(struct svm_vcpu *vcpu, struct vm_exit *vme)
{
	struct vmcb_state *state = &vcpu->vmcb->state;
	struct vmcb_ctrl *ctrl = &vcpu->vmcb->ctrl;
	uint64_t code = ctrl->exitcode;
	bool handled = false;

	vme->exitcode = VM_EXITCODE_BOGUS;
	vme->rip = state->rip;
	vme->inst_length = nrip_valid(code) ? (int)(ctrl->nrip - state->rip) : 0;
	vmm_stat_incr(vcpu->vcpu, VMEXIT_COUNT, 1);

	if (code != VMCB_EXIT_INVALID) {
		svm_update_virqinfo(vcpu, vm_lapic(vcpu->vcpu));
		svm_save_intinfo(vcpu);
	}

	switch (code) {
	case VMCB_EXIT_IRET:
		/* Execute it again, now without the intercept. */
		vme->inst_length = 0;
		clear_nmi_blocking(vcpu);
		handled = true;
		break;
	case VMCB_EXIT_VINTR:
		vmm_stat_incr(vcpu->vcpu, VMEXIT_VINTR, 1);
		handled = true;
		break;
	case VMCB_EXIT_INTR:
		vmm_stat_incr(vcpu->vcpu, VMEXIT_EXTINT, 1);
		handled = true;
		break;
	case VMCB_EXIT_NMI:		/* taken by the host as soon as GIF is set again */
	case VMCB_EXIT_INVD:
		handled = true;
		break;
	case VMCB_EXIT_EXCP0 + IDT_MC:
		vmm_stat_incr(vcpu->vcpu, VMEXIT_EXCEPTION, 1);
		__asm__ __volatile__("int $18");
		handled = true;
		break;
	case VMCB_EXIT_EXCP0 + IDT_DB:
		/* Only intercepted while the debug stub steps. */
		vmm_stat_incr(vcpu->vcpu, VMEXIT_EXCEPTION, 1);
		vme->exitcode = VM_EXITCODE_DB;
		break;
	case VMCB_EXIT_EXCP0 + IDT_BP:
		vmm_stat_incr(vcpu->vcpu, VMEXIT_EXCEPTION, 1);
		vme->exitcode = VM_EXITCODE_BPT;
		/* The exit is in front of the INT3; an injected #BP pushes the RIP of the VMCB (APM volume 2, 15.20). */
		vme->u.bpt.rip = state->rip + 1;
		break;
	case VMCB_EXIT_MSR:
		handled = svm_handle_msr(vcpu, vme);
		break;
	case VMCB_EXIT_IO:
		svm_handle_io(vcpu, vme);
		break;
	case VMCB_EXIT_CPUID:
		handled = svm_handle_cpuid(vcpu);
		break;
	case VMCB_EXIT_HLT:
		vmm_stat_incr(vcpu->vcpu, VMEXIT_HLT, 1);
		vme->exitcode = VM_EXITCODE_HLT;
		vme->u.hlt.rflags = state->rflags;
		break;
	case VMCB_EXIT_PAUSE:
		vmm_stat_incr(vcpu->vcpu, VMEXIT_PAUSE, 1);
		vme->exitcode = VM_EXITCODE_PAUSE;
		break;
	case VMCB_EXIT_NPF:
		svm_handle_npf(vcpu, vme);
		break;
	case VMCB_EXIT_MONITOR:
	case VMCB_EXIT_MWAIT:
	case VMCB_EXIT_SHUTDOWN:	/* what follows is up to the guest: there is no state to continue from */
	case VMCB_EXIT_INVLPGA:
	case VMCB_EXIT_VMRUN:
	case VMCB_EXIT_VMMCALL:
	case VMCB_EXIT_VMLOAD:
	case VMCB_EXIT_VMSAVE:
	case VMCB_EXIT_STGI:
	case VMCB_EXIT_CLGI:
	case VMCB_EXIT_SKINIT:
	case VMCB_EXIT_ICEBP:
		vm_inject_ud(vcpu->vcpu);
		vme->inst_length = 0;
		handled = true;
		break;
	default:
		vmm_stat_incr(vcpu->vcpu, VMEXIT_UNKNOWN, 1);
		break;
	}

	if (handled) {
		state->rip += (uint64_t)vme->inst_length;
		vme->rip = state->rip;
		vme->inst_length = 0;
	} else if (vme->exitcode == VM_EXITCODE_BOGUS) {
		/* Nobody claims it: the end of this guest, with the reason for its log. */
		vme->exitcode = VM_EXITCODE_SVM;
		vme->u.svm.exitcode = code;
		vme->u.svm.exitinfo1 = ctrl->exitinfo1;
		vme->u.svm.exitinfo2 = ctrl->exitinfo2;
	}
	return (handled);
}
