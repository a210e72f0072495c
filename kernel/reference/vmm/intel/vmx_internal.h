/*
 * What the files of the VMX module share among themselves.
 */
#ifndef VMX_INTERNAL_H
#define VMX_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm.h"
#include "vmx.h"

/* Reasons for VM exits (SDM volume 3, appendix C). */
enum vmx_exit_reason {
	EXIT_REASON_EXCEPTION = 0, EXIT_REASON_EXT_INTR = 1, EXIT_REASON_TRIPLE_FAULT = 2,
	EXIT_REASON_INTR_WINDOW = 7, EXIT_REASON_NMI_WINDOW = 8, EXIT_REASON_TASK_SWITCH = 9, EXIT_REASON_CPUID = 10,
	EXIT_REASON_HLT = 12, EXIT_REASON_INVD = 13, EXIT_REASON_VMCALL = 18, EXIT_REASON_VMCLEAR = 19,
	EXIT_REASON_VMLAUNCH = 20, EXIT_REASON_VMPTRLD = 21, EXIT_REASON_VMPTRST = 22, EXIT_REASON_VMREAD = 23,
	EXIT_REASON_VMRESUME = 24, EXIT_REASON_VMWRITE = 25, EXIT_REASON_VMXOFF = 26, EXIT_REASON_VMXON = 27,
	EXIT_REASON_CR_ACCESS = 28, EXIT_REASON_INOUT = 30, EXIT_REASON_RDMSR = 31, EXIT_REASON_WRMSR = 32,
	EXIT_REASON_MWAIT = 36, EXIT_REASON_MTF = 37, EXIT_REASON_MONITOR = 39, EXIT_REASON_PAUSE = 40,
	EXIT_REASON_EPT_FAULT = 48, EXIT_REASON_INVEPT = 50, EXIT_REASON_VMX_PREEMPT = 52, EXIT_REASON_INVVPID = 53,
	EXIT_REASON_WBINVD = 54, EXIT_REASON_XSETBV = 55
};
#define IDT_OF				4
#define EXIT_REASON_ENTRY_FAILED	(1u << 31)

/* What the processor can do and how its controls must stand; filled at module load (vmx_cap.c). */
struct vmx_settings {
	uint32_t pinbased_ctls;
	uint32_t procbased_ctls;
	uint32_t procbased_ctls2;
	uint32_t exit_ctls;
	uint32_t entry_ctls;
	uint32_t exception_bitmap;
	uint64_t cr0_ones_mask, cr0_zeros_mask;
	uint64_t cr4_ones_mask, cr4_zeros_mask;
	uint32_t preemption_timer;	/* 0: the processor has none */
	bool cap_halt_exit, cap_pause_exit, cap_monitor_trap, cap_unrestricted_guest, cap_invpcid, cap_rdtscp;
	bool cap_wbinvd_exit, cap_vpid;
	bool trace_guest_exceptions;
	bool no_flush_rsb;
};
extern struct vmx_settings vmx_settings;

/* vmx_cap.c. ENXIO: something that cannot be done without is missing. */
int	 vmx_settings_init(void);
uint32_t vmx_revision(void);
/* Control register values with the bits the processor insists on. */
uint64_t vmx_fix_cr0(uint64_t cr0);
uint64_t vmx_fix_cr4(uint64_t cr4);
/* hw.vmm.vmx.*: the values in effect; ENOENT for a name that is not one of them. */
int	 vmx_sysctl(const char *name, char *buf, size_t size);

/* vmx_vcpu.c */
void	*vmx_vcpu_init(void *vmi, struct vcpu *vcpu, int vcpuid);
void	 vmx_vcpu_cleanup(void *vcpui);
/* The VMCS of a vCPU for a while: it may be current already, when the vCPU's own exit is being handled. */
bool	 vmcs_borrow(const struct vmx_vcpu *vcpu);
void	 vmcs_give_back(const struct vmx_vcpu *vcpu, bool borrowed);

/* vmx_reg.c */
int	 vmx_getreg(void *vcpui, int ident, uint64_t *val);
int	 vmx_setreg(void *vcpui, int ident, uint64_t val);
int	 vmx_getdesc(void *vcpui, int reg, struct seg_desc *desc);
int	 vmx_setdesc(void *vcpui, int reg, const struct seg_desc *desc);
int	 vmx_getcap(void *vcpui, int type, int *val);
int	 vmx_setcap(void *vcpui, int type, int val);
void	 vmx_set_procbased(struct vmx_vcpu *vcpu, uint32_t set, uint32_t clear);	/* of the current VMCS */
uint64_t *vmxctx_regptr(struct vmxctx *vmxctx, int reg);
/* General register by its number in instructions; RSP is in the current VMCS. */
uint64_t vmx_get_guest_reg(const struct vmx_vcpu *vcpu, int number);
void	 vmx_set_guest_reg(struct vmx_vcpu *vcpu, int number, uint64_t val);

/* vmx_msr.c */
void	 vmx_msr_init(void);
void	 vmx_msr_permissions(uint8_t *bitmap);
void	 vmx_msr_guest_init(struct vmx_vcpu *vcpu);
void	 vmx_msr_guest_enter(struct vmx_vcpu *vcpu);
void	 vmx_msr_guest_exit(struct vmx_vcpu *vcpu);
int	 vmx_rdmsr(struct vmx_vcpu *vcpu, uint32_t num, uint64_t *val);
int	 vmx_wrmsr(struct vmx_vcpu *vcpu, uint32_t num, uint64_t val);

/* vmx_cr.c: true = done, continue behind the instruction. */
bool	 vmx_emulate_cr_access(struct vmx_vcpu *vcpu, uint64_t qualification);
bool	 vmx_emulate_xsetbv(struct vmx_vcpu *vcpu);
/* XCR0 of the guest while it runs, of the host otherwise. */
void	 vmx_xcr0_guest_enter(const struct vmx_vcpu *vcpu);
void	 vmx_xcr0_guest_exit(const struct vmx_vcpu *vcpu);

/* vmx_intr.c */
void	 vmx_inject_interrupts(struct vmx_vcpu *vcpu, struct vlapic *vlapic, uint64_t guestrip);
void	 vmx_save_idt_vectoring(struct vmx_vcpu *vcpu, uint32_t reason, int inst_length);
void	 vmx_clear_int_window_exiting(struct vmx_vcpu *vcpu);
void	 vmx_clear_nmi_window_exiting(struct vmx_vcpu *vcpu);
void	 vmx_trigger_hostintr(int vector);

/* vmx_exit.c: true = handled here, run the guest again; false = *vme tells the caller of vmx_run() what to do. */
bool	 vmx_exit_process(struct vmx_vcpu *vcpu, struct vm_exit *vme, uint32_t reason);
/* VMLAUNCH or VMRESUME failed. */
void	 vmx_exit_inst_error(const struct vmxctx *vmxctx, int rc, struct vm_exit *vme);

/* vmx_run.c */
int	 vmx_run(void *vcpui, uint64_t rip, struct pmap *pmap, struct vm_eventinfo *evinfo);

#endif
