#include <stdbool.h>
#include <stdint.h>

#include "vmm.h"
#include "cpufunc.h"
#include "pcpu.h"
#include "defects.h"
#include "svm_cache.h"
#include "svm_defects.h"
#include "svm_dr.h"
#include "svm_internal.h"

uint64_t svm_percpu_dr[MAXCPU][4];

/*
 * While GIF is clear, processors discard the traps of single-stepping (APM volume 2, 15.17). Bochs delivers them, also
 * where per-CPU data and TR are the guest's: so the host's TF is off for as long, which comes to the same.
 */
static inline uint64_t
disable_gintr(void)
{
	uint64_t tf;

	__asm__ __volatile__("clgi" : : : "memory");
	tf = read_rflags() & PSL_T;
	if (tf != 0)
		write_rflags(read_rflags() & ~PSL_T);
	return (tf);
}

static inline void
enable_gintr(uint64_t tf)
{
	__asm__ __volatile__("stgi" : : : "memory");
	if (tf != 0)
		write_rflags(read_rflags() | PSL_T);
}

/* What stands in the registers that a function has to preserve, as a caller's own values would. */
#define	CANARY(n)	(0x686f737400000000ull | (n))

/* svm_launch(), held to the convention of calls: its caller may have something in any register that is preserved. */
static inline void
svm_launch_checked(uint64_t vmcb_pa, struct svm_regctx *gctx, struct pcpu *pcpu)
{
	uint64_t rbx = CANARY(3);
	register uint64_t r12 __asm__("r12") = CANARY(12);
	register uint64_t r13 __asm__("r13") = CANARY(13);
	register uint64_t r14 __asm__("r14") = CANARY(14);
	register uint64_t r15 __asm__("r15") = CANARY(15);

	__asm__ __volatile__("call svm_launch" : "+b"(rbx), "+r"(r12), "+r"(r13), "+r"(r14), "+r"(r15),
	    "+D"(vmcb_pa), "+S"(gctx), "+d"(pcpu) : : "rax", "rcx", "r8", "r9", "r10", "r11", "memory", "cc");
	if (rbx != CANARY(3) || r12 != CANARY(12) || r13 != CANARY(13) || r14 != CANARY(14) || r15 != CANARY(15))
		panic("svm_launch does not preserve %s", rbx != CANARY(3) ? "%rbx" : r12 != CANARY(12) ? "%r12" :
		    r13 != CANARY(13) ? "%r13" : r14 != CANARY(14) ? "%r14" : "%r15");
}

/* One stay in the guest. GIF is clear, everything is decided; on return the host is whole except for TR and LDTR. */
static void
svm_enter_leave(struct svm_vcpu *vcpu, int cpu)
{
	struct vmcb *vmcb = vcpu->vmcb;
	struct svm_regctx *gctx = &vcpu->swctx;
	struct pcpu *pcpu = curpcpu();
	const struct vmcb *run;
	uint64_t run_pa;

	vmcb->ctrl.vmcb_clean = svm_clean_mask() & ~vcpu->dirty;
	vcpu->dirty = 0;
	svm_defective_entry(vcpu);
	run_pa = svm_cache_load(cpu, vmcb, vcpu->vmcb_pa);

	/* The copy that the processor works on; physical addresses are the kernel's own. */
	run = (const struct vmcb *)run_pa;

	svm_dr_enter_guest(gctx, cpu);
	svm_launch_checked(run_pa, gctx, pcpu);
	if (defect(DEFECT_SVM_GSBASE_BY_CALLER))
		wrmsr(MSR_GSBASE, (uintptr_t)pcpu);
	svm_dr_leave_guest(gctx, cpu, run->ctrl.exitcode, run->state.dr7);

	svm_cache_store(cpu, vmcb);
	svm_defective_exit(vcpu);
}

/*
 * XSETBV does not exit: the guest changes XCR0 itself, and only a guest with CR4.OSXSAVE can have done so. The host
 * has that bit clear, and needs it set for as long as it touches the register.
 */
static void
svm_xcr0_guest_enter(const struct svm_vcpu *vcpu)
{
	uint64_t cr4 = rcr4();

	if (vcpu->guest_xcr0 == XCR0_RESET)
		return;
	load_cr4(cr4 | CR4_OSXSAVE);
	load_xcr(0, vcpu->guest_xcr0);
	load_cr4(cr4);
}

static void
svm_xcr0_guest_exit(struct svm_vcpu *vcpu)
{
	uint64_t cr4 = rcr4();

	if ((vcpu->vmcb->state.cr4 & CR4_OSXSAVE) == 0 && vcpu->guest_xcr0 == XCR0_RESET)
		return;
	load_cr4(cr4 | CR4_OSXSAVE);
	vcpu->guest_xcr0 = rxcr(0);
	load_xcr(0, XCR0_RESET);
	load_cr4(cr4);
}

/*
 * Run the guest on this CPU until something is not for this loop to handle; *vme of the vCPU then says what. Called
 * with the thread bound to its CPU.
 */
int
svm_run(void *vcpui, uint64_t rip, struct pmap *pmap, struct vm_eventinfo *evinfo)
{
	struct svm_vcpu *vcpu = vcpui;
	struct vm_exit *vme = vm_exitinfo(vcpu->vcpu);
	struct vmcb_state *state = &vcpu->vmcb->state;
	int cpu = curcpu();
	bool handled;

	state->rip = rip;
	if (vcpu->lastcpu != cpu) {
		/* Neither ASID nor cached state mean anything on another CPU; the first run has no cached state. */
		vcpu->asid.gen = 0;
		if (vcpu->lastcpu != NOCPU) {
			if (!defect(DEFECT_SVM_MIGRATION_CLEAN) &&
			    !(defect(DEFECT_SVM_MIGRATION_DIRTY_ONCE) && vcpu->migrated))
				svm_set_dirty(vcpu, VMCB_CACHE_ALL);
			if (defect(DEFECT_SVM_CLEAN_NP))
				vcpu->dirty = VMCB_CACHE_ALL & ~VMCB_CACHE_NP;
			vcpu->migrated = true;
		} else if (defect(DEFECT_SVM_FIRST_RUN_CLEAN)) {
			vcpu->dirty = VMCB_CACHE_ALL & ~(VMCB_CACHE_DR | VMCB_CACHE_CR2);
		} else if (defect(DEFECT_SVM_CLEAN_IOPM)) {
			vcpu->dirty = VMCB_CACHE_ALL & ~VMCB_CACHE_IOPM;
		} else {
			svm_set_dirty(vcpu, VMCB_CACHE_ALL);
		}
		vcpu->lastcpu = cpu;
		vmm_stat_incr(vcpu->vcpu, VCPU_MIGRATIONS, 1);
	}
	svm_msr_guest_enter(vcpu);
	svm_xcr0_guest_enter(vcpu);

	do {
		uint64_t tf = disable_gintr();
		uint16_t ldt_sel;

		if (vm_exit_wanted(vcpu->vcpu, evinfo, state->rip)) {
			enable_gintr(tf);
			break;
		}
		ldt_sel = sldt();
		svm_inj_interrupts(vcpu, vm_lapic(vcpu->vcpu));
		asid_update(vcpu, cpu, pmap_eptgen(pmap));

		svm_enter_leave(vcpu, cpu);

		restore_host_tss();
		lldt(ldt_sel);
		enable_gintr(tf);

		vcpu->nextrip = state->rip;
		handled = svm_vmexit(vcpu, vme);
	} while (handled);

	svm_xcr0_guest_exit(vcpu);
	svm_msr_guest_exit(vcpu);
	return (0);
}
