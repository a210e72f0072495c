/*
 * The seam between the vendor-neutral hypervisor (vmm/vmm_*.c) and what is particular to VT-x (vmm/intel/) and SVM
 * (vmm/amd/). Names and numbers are FreeBSD 13.2's (sys/amd64/include/vmm.h).
 *
 * Vendor code may call everything declared here, in kern.h (memory, messages, smp_rendezvous), pcpu.h, cpufunc.h and
 * defects.h. It runs in the vCPU's thread, bound to its CPU for the length of vmm_ops.run(), interrupts on at entry.
 * Between `cli` (or CLGI) and the world switch: nothing that sleeps, logs or takes a lock that others hold for long;
 * vm_exit_wanted(), the vlapic queries, vm_inject_*() and vmm_stat_incr() are made for that place.
 */
#ifndef VMM_H
#define VMM_H

#include "kern.h"
#include "vmm_stat.h"

struct vm;
struct vcpu;
struct pmap;
struct vlapic;

#define VM_MAXCPU	2		/* vCPUs of one VM */
#define VM_MAX_NAMELEN	32
#define NUM_VMS		8

enum vm_reg_name {
	VM_REG_GUEST_RAX, VM_REG_GUEST_RBX, VM_REG_GUEST_RCX, VM_REG_GUEST_RDX, VM_REG_GUEST_RSI, VM_REG_GUEST_RDI,
	VM_REG_GUEST_RBP, VM_REG_GUEST_R8, VM_REG_GUEST_R9, VM_REG_GUEST_R10, VM_REG_GUEST_R11, VM_REG_GUEST_R12,
	VM_REG_GUEST_R13, VM_REG_GUEST_R14, VM_REG_GUEST_R15, VM_REG_GUEST_CR0, VM_REG_GUEST_CR3, VM_REG_GUEST_CR4,
	VM_REG_GUEST_DR7, VM_REG_GUEST_RSP, VM_REG_GUEST_RIP, VM_REG_GUEST_RFLAGS, VM_REG_GUEST_ES, VM_REG_GUEST_CS,
	VM_REG_GUEST_SS, VM_REG_GUEST_DS, VM_REG_GUEST_FS, VM_REG_GUEST_GS, VM_REG_GUEST_LDTR, VM_REG_GUEST_TR,
	VM_REG_GUEST_IDTR, VM_REG_GUEST_GDTR, VM_REG_GUEST_EFER, VM_REG_GUEST_CR2, VM_REG_GUEST_PDPTE0,
	VM_REG_GUEST_PDPTE1, VM_REG_GUEST_PDPTE2, VM_REG_GUEST_PDPTE3, VM_REG_GUEST_INTR_SHADOW, VM_REG_GUEST_DR0,
	VM_REG_GUEST_DR1, VM_REG_GUEST_DR2, VM_REG_GUEST_DR3, VM_REG_GUEST_DR6, VM_REG_GUEST_ENTRY_INST_LENGTH,
	VM_REG_LAST
};
_Static_assert(VM_REG_GUEST_INTR_SHADOW == 38 && VM_REG_GUEST_DR0 == 39 && VM_REG_GUEST_DR6 == 43, "FreeBSD's numbers");

enum vm_cap_type {
	VM_CAP_HALT_EXIT, VM_CAP_MTRAP_EXIT, VM_CAP_PAUSE_EXIT, VM_CAP_UNRESTRICTED_GUEST, VM_CAP_ENABLE_INVPCID,
	VM_CAP_BPT_EXIT, VM_CAP_RDPID, VM_CAP_RDTSCP, VM_CAP_IPI_EXIT, VM_CAP_MASK_HWINTR,
	VM_CAP_RFLAGS_TF, VM_CAP_MAX
};

enum vm_suspend_how {
	VM_SUSPEND_NONE, VM_SUSPEND_RESET, VM_SUSPEND_POWEROFF, VM_SUSPEND_HALT, VM_SUSPEND_TRIPLEFAULT,
	VM_SUSPEND_KILL,		/* ours: the bhyve process gets SIGKILL */
	VM_SUSPEND_DESTROY,		/* ours: the VM goes away under it */
	VM_SUSPEND_LAST
};

/* Access rights as VT-x has them: bits 7:0 and 15:12 of the descriptor, bit 16 = unusable. */
struct seg_desc {
	uint64_t base;
	uint32_t limit;
	uint32_t access;
};
#define SEG_DESC_TYPE(access)		((access) & 0x1f)
#define SEG_DESC_DPL(access)		(((access) >> 5) & 0x3)
#define SEG_DESC_PRESENT(access)	(((access) & 0x0080) != 0)
#define SEG_DESC_DEF32(access)		(((access) & 0x4000) != 0)
#define SEG_DESC_GRANULARITY(access)	(((access) & 0x8000) != 0)
#define SEG_DESC_UNUSABLE(access)	(((access) & 0x10000) != 0)

enum vm_cpu_mode { CPU_MODE_REAL, CPU_MODE_PROTECTED, CPU_MODE_COMPATIBILITY, CPU_MODE_64BIT };
enum vm_paging_mode { PAGING_MODE_FLAT, PAGING_MODE_32, PAGING_MODE_PAE, PAGING_MODE_64, PAGING_MODE_64_LA57 };

struct vm_guest_paging {
	uint64_t cr3;
	int cpl;
	enum vm_cpu_mode cpu_mode;
	enum vm_paging_mode paging_mode;
};

/*
 * Why vmm_ops.run() returned. HLT, PAUSE (with -P), PAGING and INST_EMUL are for vm_run(); REQIDLE, SUSPENDED,
 * DEBUG and AST are set by vm_exit_wanted(); everything else goes to bhyve.
 */
enum vm_exitcode {
	VM_EXITCODE_INOUT, VM_EXITCODE_VMX, VM_EXITCODE_BOGUS, VM_EXITCODE_RDMSR, VM_EXITCODE_WRMSR, VM_EXITCODE_HLT,
	VM_EXITCODE_MTRAP, VM_EXITCODE_PAUSE, VM_EXITCODE_PAGING, VM_EXITCODE_INST_EMUL, VM_EXITCODE_SPINUP_AP,
	VM_EXITCODE_DEPRECATED1, VM_EXITCODE_RENDEZVOUS, VM_EXITCODE_IOAPIC_EOI, VM_EXITCODE_SUSPENDED,
	VM_EXITCODE_INOUT_STR, VM_EXITCODE_TASK_SWITCH, VM_EXITCODE_MONITOR, VM_EXITCODE_MWAIT, VM_EXITCODE_SVM,
	VM_EXITCODE_REQIDLE, VM_EXITCODE_DEBUG, VM_EXITCODE_VMINSN, VM_EXITCODE_BPT, VM_EXITCODE_AST,
	VM_EXITCODE_DB, VM_EXITCODE_MAX
};

#define VM_PROT_READ		1
#define VM_PROT_WRITE		2
#define VM_PROT_EXECUTE		4

#define VIE_INVALID_GLA		(1ull << 63)	/* the processor does not say which linear address it was */

struct vm_exit {
	enum vm_exitcode exitcode;
	int		 inst_length;	/* 0 = run the instruction again */
	uint64_t	 rip;
	union {
		struct {
			uint8_t bytes;		/* 1, 2 or 4 */
			uint8_t in;
			uint8_t string;
			uint8_t rep;
			uint16_t port;
			uint32_t eax;		/* value of an OUT; bhyve puts that of an IN here */
		} inout;
		struct {
			uint64_t gpa;
			int fault_type;		/* VM_PROT_* */
		} paging;
		struct {
			uint64_t gpa;
			uint64_t gla;		/* or VIE_INVALID_GLA */
			uint64_t cs_base;
			int cs_d;		/* CS.D */
			struct vm_guest_paging paging;
		} inst_emul;
		struct {
			int status;		/* 0 = an exit nobody handles, else VMLAUNCH or VMRESUME failed */
			uint32_t exit_reason;
			uint64_t exit_qualification;
			int inst_type;
			int inst_error;
		} vmx;
		struct {
			uint64_t exitcode;
			uint64_t exitinfo1;
			uint64_t exitinfo2;
		} svm;
		struct {
			uint32_t code;
			uint64_t wval;
		} msr;
		struct {
			int vcpu;
			uint64_t rip;
		} spinup_ap;
		struct {
			uint64_t rflags;
			uint64_t intr_status;
		} hlt;
		struct {
			enum vm_suspend_how how;
		} suspended;
		struct {
			uint64_t rip;		/* the guest's, for an injected #BP to push what INT3 would */
		} bpt;
	} u;
};

/* Handed through run() to vm_exit_wanted(). */
struct vm_eventinfo {
	volatile uint32_t *suspend;	/* suspend in progress: an enum vm_suspend_how */
	volatile uint32_t *reqidle;	/* somebody waits for this vCPU to be idle */
};

/*
 * A vendor. Objects: vmi is what init() returned for a VM, vcpui what vcpu_init() returned. Errors are positive error
 * numbers, 0 is success.
 *   modinit, modcleanup   module load (switch the extension on for all CPUs) and unload; tunables and defects are set
 *   init, cleanup         per VM; the pmap is complete and empty. NULL: no memory
 *   run                   until something is not for the vendor's loop; fills vm_exitinfo(). Non-zero ends the vCPU
 *   getreg, setreg        vCPU not running. EINVAL: no such register; a negative number is a raw VMCS or VMCB field,
 *                         which can only be read
 *   getcap, setcap        ENOENT: not available on this vendor or CPU
 */
struct vmm_ops {
	int	(*modinit)(void);
	int	(*modcleanup)(void);
	void	*(*init)(struct vm *vm, struct pmap *pmap);
	int	(*run)(void *vcpui, uint64_t rip, struct pmap *pmap, struct vm_eventinfo *evinfo);
	void	(*cleanup)(void *vmi);
	void	*(*vcpu_init)(void *vmi, struct vcpu *vcpu, int vcpuid);
	void	(*vcpu_cleanup)(void *vcpui);
	int	(*getreg)(void *vcpui, int reg, uint64_t *val);
	int	(*setreg)(void *vcpui, int reg, uint64_t val);
	int	(*getdesc)(void *vcpui, int reg, struct seg_desc *desc);
	int	(*setdesc)(void *vcpui, int reg, const struct seg_desc *desc);
	int	(*getcap)(void *vcpui, int cap, int *val);
	int	(*setcap)(void *vcpui, int cap, int val);
	/* Text value of a sysctl the vendor owns (`hw.vmm.vmx.initialized`); ENOENT for a name that is not its own. */
	int	(*sysctl)(const char *name, char *buf, size_t size);
};

extern const struct vmm_ops vmm_ops_intel;
extern const struct vmm_ops vmm_ops_amd;

/* --- vmm_run.c: the vCPU as the vendor's loop sees it ---------------------------------------------------------- */
struct vm_exit	*vm_exitinfo(struct vcpu *vcpu);
struct vm	*vcpu_vm(struct vcpu *vcpu);
int		 vcpu_vcpuid(struct vcpu *vcpu);
struct vlapic	*vm_lapic(struct vcpu *vcpu);
/*
 * The check before each world switch, with interrupts (or GIF) off: true = leave the loop, vm_exitinfo() says why, with
 * rip as its rip. Suspend, the debug stub, request to be idle, AST.
 */
bool	vm_exit_wanted(struct vcpu *vcpu, const struct vm_eventinfo *evinfo, uint64_t rip);
/* Is the guest-physical address RAM or ROM of the VM (mapped at first touch), rather than a device? */
bool	vm_mem_allocated(struct vcpu *vcpu, uint64_t gpa);

/* --- vmm_intr.c: events for the guest --------------------------------------------------------------------------- */
#define VM_INTINFO_VECTOR(info)		((info) & 0xff)
#define VM_INTINFO_DEL_ERRCODE		0x800ull
#define VM_INTINFO_VALID		0x80000000ull
#define VM_INTINFO_TYPE			0x700ull
#define VM_INTINFO_HWINTR		0x000ull
#define VM_INTINFO_NMI			0x200ull
#define VM_INTINFO_HWEXCEPTION		0x300ull
#define VM_INTINFO_SWINTR		0x400ull
/* An event whose delivery the exit interrupted (0 = none): layout of EXITINTINFO, error code in the upper half. */
void	vm_exit_intinfo(struct vcpu *vcpu, uint64_t info);
/* What to deliver at the next entry: the interrupted event, a queued exception or both combined. Consumes it. */
bool	vm_entry_intinfo(struct vcpu *vcpu, uint64_t *info);
void	vm_inject_exception(struct vcpu *vcpu, int vector, bool errcode_valid, uint32_t errcode);
void	vm_inject_ud(struct vcpu *vcpu);
void	vm_inject_gp(struct vcpu *vcpu);
void	vm_inject_bp(struct vcpu *vcpu);	/* the INT3 of a VM_EXITCODE_BPT, as if it had not been caught */
bool	vm_hwintr_masked(struct vcpu *vcpu);	/* VM_CAP_MASK_HWINTR */
bool	vm_nmi_pending(struct vcpu *vcpu);
void	vm_nmi_clear(struct vcpu *vcpu);	/* delivered; counts it */

/* --- vmm_vlapic.c ------------------------------------------------------------------------------------------------ */
bool	 vlapic_pending_intr(struct vlapic *vlapic, int *vector);	/* deliverable above the task priority */
void	 vlapic_intr_accepted(struct vlapic *vlapic, int vector);
uint64_t vlapic_get_cr8(struct vlapic *vlapic);
void	 vlapic_set_cr8(struct vlapic *vlapic, uint64_t cr8);
/* MSRs that belong to the local APIC. A non-zero result is for bhyve's MSR policy; *retu = leave to bhyve, exit set. */
bool	 lapic_msr(uint32_t msr);
int	 lapic_rdmsr(struct vcpu *vcpu, uint32_t msr, uint64_t *val, bool *retu);
int	 lapic_wrmsr(struct vcpu *vcpu, uint32_t msr, uint64_t val, bool *retu);

/* --- vmm_cpuid.c -------------------------------------------------------------------------------------------------- */
/* Always succeeds (non-zero): the guest's CPUID leaf in rax, subleaf in rcx. */
int	 x86_emulate_cpuid(struct vcpu *vcpu, uint64_t *rax, uint64_t *rbx, uint64_t *rcx, uint64_t *rdx);
/* XSETBV that exited: checks what the architecture checks; injects #GP or #UD itself. True = carry on behind it. */
bool	 vm_xsetbv(struct vcpu *vcpu, uint32_t xcr, uint64_t val);

/* --- vmm_pmap.c: nested page tables ------------------------------------------------------------------------------- */
uint64_t pmap_root(const struct pmap *pmap);	/* physical address of the top level: n_cr3 */
uint64_t pmap_eptp(const struct pmap *pmap);	/* the same with VT-x' memory type and walk length */
/* Changes when translations the processor may hold became stale: INVEPT or a new ASID before the next entry. */
long	 pmap_eptgen(const struct pmap *pmap);

#endif
