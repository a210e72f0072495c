#include <stdbool.h>
#include <stdint.h>

#include "cpufunc.h"
#include "defects.h"
#include "vmx_defects.h"
#include "vmx_dr.h"
#include "vmx_internal.h"

#define	NMI_EXIT_MASK	(VMCS_INTR_VALID | VMCS_INTR_T_MASK)

/* What a VM exit leaves as the architecture wants it and not as the host had it. */
struct host_tables {
	struct region_descriptor gdtr, idtr;
	uint16_t ldt_sel;
};

static void
save_host_tables(struct host_tables *tables)
{
	sgdt(&tables->gdtr);
	sidt(&tables->idtr);
	tables->ldt_sel = sldt();
}

/* Their limits are 64 KiB behind an exit, the LDT is gone. */
static void
restore_host_tables(const struct host_tables *tables)
{
	lgdt(&tables->gdtr);
	lidt(&tables->idtr);
	lldt(tables->ldt_sel);
}

/* Translations of guest addresses that another vCPU's use of the VPID, or another CPU, may have left. */
static void
vmx_invvpid(struct vmx_vcpu *vcpu, const struct pmap *pmap, int cpu)
{
	struct invvpid_desc desc = { vcpu->vpid, 0 };

	if (vcpu->vpid == 0)
		return;
	if (vcpu->vmx->eptgen[cpu] != pmap_eptgen(pmap)) {
		/* INVEPT, which comes before the entry, takes them along. */
		vmm_stat_incr(vcpu->vcpu, VCPU_INVVPID_SAVED, 1);
		return;
	}
	(void)invvpid(INVVPID_TYPE_SINGLE_CONTEXT, &desc);
	vmm_stat_incr(vcpu->vcpu, VCPU_INVVPID_DONE, 1);
}

/* The fields of the VMCS that hold something of this host CPU. */
static void
vmx_set_pcpu_defaults(struct vmx_vcpu *vcpu, const struct pmap *pmap)
{
	struct region_descriptor gdtr, idtr;
	int cpu = curcpu();

	if (vcpu->lastcpu == cpu)
		return;
	vcpu->lastcpu = cpu;
	vmm_stat_incr(vcpu->vcpu, VCPU_MIGRATIONS, 1);
	sgdt(&gdtr);
	sidt(&idtr);
	vmcs_write(VMCS_HOST_TR_BASE, host_tss_base());
	vmcs_write(VMCS_HOST_GDTR_BASE, gdtr.base);
	vmcs_write(VMCS_HOST_IDTR_BASE, idtr.base);
	if (!defect(DEFECT_VMX_HOST_GSBASE_ONCE))
		vmcs_write(VMCS_HOST_GS_BASE, (uintptr_t)curpcpu());
	vmx_invvpid(vcpu, pmap, cpu);
}

static void
vmx_pmap_activate(struct vmx *vmx, const struct pmap *pmap)
{
	struct invept_desc desc = { vmx->eptp, 0 };
	int cpu = curcpu();

	if (vmx->eptgen[cpu] == pmap_eptgen(pmap))
		return;
	vmx->eptgen[cpu] = pmap_eptgen(pmap);
	(void)invept(INVEPT_TYPE_SINGLE_CONTEXT, &desc);
}

/* An NMI of the host ended the stay. NMIs are blocked since; the handler's IRET unblocks them. */
static void
vmx_exit_handle_nmi(uint32_t reason)
{
	uint32_t info;

	if (reason != EXIT_REASON_EXCEPTION)
		return;
	info = (uint32_t)vmcs_read(VMCS_EXIT_INTR_INFO);
	if ((info & NMI_EXIT_MASK) == (VMCS_INTR_VALID | VMCS_INTR_T_NMI))
		__asm__ __volatile__("int $2");
}

/* What stands in the registers that a function has to preserve, as a caller's own values would. */
#define	CANARY(n)	(0x686f737400000000ull | (n))

/* vmx_enter_guest(), held to the convention of calls: its caller may have something in any register that is preserved. */
static inline int
vmx_enter_guest_checked(struct vmxctx *vmxctx, struct vmx *vmx, uint64_t launched)
{
	uint64_t rbx = CANARY(3);
	register uint64_t r12 __asm__("r12") = CANARY(12);
	register uint64_t r13 __asm__("r13") = CANARY(13);
	register uint64_t r14 __asm__("r14") = CANARY(14);
	register uint64_t r15 __asm__("r15") = CANARY(15);
	int rc;

	__asm__ __volatile__("call vmx_enter_guest" : "=a"(rc), "+b"(rbx), "+r"(r12), "+r"(r13), "+r"(r14), "+r"(r15),
	    "+D"(vmxctx), "+S"(vmx), "+d"(launched) : : "rcx", "r8", "r9", "r10", "r11", "memory", "cc");
	if (rbx != CANARY(3) || r12 != CANARY(12) || r13 != CANARY(13) || r14 != CANARY(14) || r15 != CANARY(15))
		panic("vmx_enter_guest does not preserve %s", rbx != CANARY(3) ? "%rbx" : r12 != CANARY(12) ? "%r12" :
		    r13 != CANARY(13) ? "%r13" : r14 != CANARY(14) ? "%r14" : "%r15");
	return (rc);
}

/*
 * Run the guest on this CPU until something is not for this loop to handle; *vme of the vCPU then says what. Called
 * with the thread bound to its CPU.
 */
int
vmx_run(void *vcpui, uint64_t rip, struct pmap *pmap, struct vm_eventinfo *evinfo)
{
	struct vmx_vcpu *vcpu = vcpui;
	struct vm_exit *vme = vm_exitinfo(vcpu->vcpu);
	struct vmxctx *vmxctx = &vcpu->ctx;
	int cpu = curcpu(), launched = 0;
	bool handled;

	vmcs_load(&vcpu->vmcs_pa);
	vcpu->loaded = true;
	vmx_msr_guest_enter(vcpu);
	vmx_xcr0_guest_enter(vcpu);
	vmxctx->pmap = pmap;
	vmcs_write(VMCS_HOST_CR3, rcr3());
	vmcs_write(VMCS_GUEST_RIP, rip);
	vmx_set_pcpu_defaults(vcpu, pmap);

	do {
		struct host_tables tables;
		uint32_t reason = 0;
		int rc;

		disable_intr();
		if (vm_exit_wanted(vcpu->vcpu, evinfo, rip)) {
			enable_intr();
			break;
		}
		vmx_inject_interrupts(vcpu, vm_lapic(vcpu->vcpu), rip);
		if (vmx_settings.preemption_timer != 0)
			vmcs_write(VMCS_PREEMPTION_TIMER_VALUE, vmx_settings.preemption_timer);
		save_host_tables(&tables);
		vmx_pmap_activate(vcpu->vmx, vmxctx->pmap);
		vmx_defective_entry(vcpu);

		vmx_dr_enter_guest(vmxctx, cpu);
		rc = vmx_enter_guest_checked(vmxctx, vcpu->vmx, (uint64_t)launched);
		vmx_dr_leave_guest(vmxctx, cpu);

		restore_host_tables(&tables);
		vme->rip = rip = vmcs_read(VMCS_GUEST_RIP);
		vcpu->nextrip = rip;
		if (rc == VMX_GUEST_VMEXIT) {
			vme->inst_length = (int)vmcs_read(VMCS_EXIT_INSTRUCTION_LENGTH);
			reason = (uint32_t)vmcs_read(VMCS_EXIT_REASON);
			vmx_exit_handle_nmi(reason);
			enable_intr();
			handled = vmx_exit_process(vcpu, vme, reason);
		} else {
			enable_intr();
			vmx_exit_inst_error(vmxctx, rc, vme);
			handled = false;
		}
		launched = 1;
		rip = vme->rip;
	} while (handled);

	vmx_xcr0_guest_exit(vcpu);
	vmx_msr_guest_exit(vcpu);
	vcpu->loaded = false;
	vmcs_unload(&vcpu->vmcs_pa);
	return (0);
}
