/* Virtual machines as the vendor-neutral code, the bhyve process and the control channel see them. */
#ifndef VM_H
#define VM_H

#include "vmm.h"

#define VM_MAX		NUM_VMS
#define VM_NAMELEN	VM_MAX_NAMELEN
#define ROM_PAGES_MAX	256

enum step_kind { STEP_PLAIN, STEP_STORES, STEP_LOADS, STEP_SYSCALL };

struct vcpu {
	struct vm *vm;
	int vcpuid;
	void *cookie;				/* the backend's */
	struct vlapic *vlapic;
	struct vm_exit exitinfo;
	uint64_t nextrip;
	uint64_t exitintinfo;
	bool exception_pending;
	uint8_t exc_vector;
	bool exc_errcode_valid;
	uint32_t exc_errcode;
	volatile bool nmi_pending;
	volatile bool parked;			/* an application processor that waits for its start-up IPI */
	volatile bool waiting;			/* it does, in vm_run(): nobody else touches its state */
	volatile bool idle;			/* frozen, in vm_run(): its thread does nothing else, either */
	volatile bool debugged;			/* the debug stub wants it to stand */
	volatile bool debug_waits;		/* it stands, in bhyve_debug_exit() */
	bool mask_hwintr;			/* no interrupts while the stub steps */
	enum step_kind step_kind;		/* vmm_step.c: what is stepped over, and the guest's TF and DR6 before */
	bool step_tf;
	uint64_t step_dr6;
	bool init;				/* it had been started before: INIT has to undo what it did */
	volatile uint32_t reqidle;		/* somebody wants this vCPU out of vm_run() */
	volatile bool running;			/* inside vm_run() */
	volatile int hostcpu;
	uint64_t stats[VMM_STAT_COUNT];
	uint8_t *fpu;				/* 512 bytes, FXSAVE layout */
};

struct vm {
	bool used;
	struct mtx mtx;				/* memory: two vCPUs may touch a page first */
	char name[VM_NAMELEN];
	struct pmap *pmap;
	void *cookie;
	uint64_t memsize;
	void **ram;				/* one pointer a page, NULL until touched */
	uint64_t ram_pages;			/* how many of them are there */
	unsigned rom_pages;
	void *rom[ROM_PAGES_MAX];
	bool used_before;			/* a bhyve has run it since its contexts were made */
	volatile uint32_t suspend;		/* enum vm_suspend_how */
	struct vcpu *vcpus[VM_MAXCPU];		/* the first from the start, others when they are asked for */
	volatile uint32_t active_cpus;		/* bhyve has a thread for them */
	volatile uint32_t halted_cpus;		/* HLT with interrupts off */
	struct bhyve *bhyve;			/* the process that runs it, or NULL */
	struct snapshot *snapshot;		/* what its vCPUs are to begin with, or NULL (vmm_snapshot.c) */
};

extern bool vmm_loaded;
extern const struct vmm_ops *vmm_ops;

int	 vmm_modload(const char *text);
int	 vmm_modunload(void);
int	 vmm_sysctl(const char *name, char *out, size_t size);

struct vm *vm_lookup(const char *name);
struct vcpu *vm_vcpu(struct vm *vm, uint32_t vcpuid);	/* made if need be; NULL: no such number, or no memory */
int	 vm_create(const char *name, struct vm **out);
int	 vm_destroy(struct vm *vm);
int	 vm_reinit(struct vm *vm);
int	 vm_renew(struct vm *vm);
int	 vm_setmem(struct vm *vm, uint64_t bytes);
void	*vm_gpa_page(struct vm *vm, uint64_t gpa, bool write);	/* host address of a page, or NULL */
int	 vm_run(struct vcpu *vcpu);				/* 0, or EFAULT as from the ioctl */
int	 vm_suspend(struct vm *vm, enum vm_suspend_how how);
void	 vcpu_freeze(struct vcpu *vcpu);			/* until vcpu_thaw() it stays out of vm_run() */
void	 vcpu_thaw(struct vcpu *vcpu);
int	 vm_get_register(struct vcpu *vcpu, int reg, uint64_t *value);
int	 vm_set_register(struct vcpu *vcpu, int reg, uint64_t value);
int	 vm_get_desc(struct vcpu *vcpu, int reg, struct seg_desc *desc);
int	 vm_set_desc(struct vcpu *vcpu, int reg, const struct seg_desc *desc);
int	 vmm_set_halt_pause(struct vcpu *vcpu, bool halt, bool pause);
int	 vm_set_capability(struct vcpu *vcpu, int cap, int value);
int	 vm_get_capability(struct vcpu *vcpu, int cap, int *value);
int	 vcpu_reset(struct vcpu *vcpu);				/* architectural reset, as libvmmapi does it */
int	 vcpu_init_ipi(struct vcpu *vcpu);			/* what INIT does to a processor that ran */
void	 vm_list(char *out, size_t size);
const char *vmm_stat_name(enum vmm_stat stat);

/* vmm/vmm_snapshot.c */
int	 vm_save(struct vm *vm, const char *file);
int	 vm_restore(const char *name, const char *file);
int	 vm_restore_vcpu(struct vcpu *vcpu);
void	 vm_snapshot_done(struct vm *vm);

/* vmm/pmap.c */
struct pmap *pmap_create(bool ept);
void	 pmap_destroy(struct pmap *pmap);
int	 pmap_enter(struct pmap *pmap, uint64_t gpa, uint64_t pa, int prot);

/* vmm/vlapic.c */
void	 vcpu_notify(struct vcpu *vcpu);			/* it leaves the guest and looks at its events */
struct vlapic *vlapic_create(struct vcpu *vcpu);
void	 vlapic_reset(struct vlapic *vlapic);
void	 vlapic_copy(struct vlapic *to, const struct vlapic *from);	/* everything but whose it is */
/* False: not its page. *retu: a vCPU is to be started, vm_exitinfo() of this one says which. */
bool	 vlapic_mmio(struct vlapic *vlapic, uint64_t gpa, bool write, uint32_t *value, bool *retu);
void	 vlapic_timer_poll(struct vlapic *vlapic);
bool	 vlapic_has_intr(struct vlapic *vlapic);
#define APIC_PAGE	0xfee00000ul

/* vmm/vmm_step.c */
int	 vm_step_begin(struct vcpu *vcpu);
void	 vm_step_end(struct vcpu *vcpu);

/* vmm/vmm_emul.c: one MOV between a register and a device's page; 0, or EFAULT for anything else. */
int	 vm_emulate_instruction(struct vcpu *vcpu, bool *retu);
/* vmm/vmm_ioport.c: ports handled in the kernel; false for the others. */
bool	 vm_handle_inout(struct vcpu *vcpu);
void	 vm_inout_result(struct vcpu *vcpu, uint32_t value);
/* A byte of the guest's memory by its address in long mode, or NULL (vmm_step.c). */
uint8_t	*vm_guest_byte(struct vcpu *vcpu, uint64_t gla, bool write);

/* bhyve/bhyverun.c */
int	 bhyve_start(struct vm *vm, uint32_t ncpu, uint32_t flags, const int32_t *pins);
void	 bhyve_kill(struct vm *vm);
void	 bhyve_vm_gone(struct vm *vm);			/* its next vm_run() fails with ENXIO */
int	 bhyve_console_in(struct vm *vm, const uint8_t *bytes, size_t length);
struct thread *bhyve_thread(struct vm *vm, uint32_t vcpuid);
void	 bhyve_stop(struct vm *vm, bool stop);
bool	 bhyve_running(void);
int	 bhyve_debug(struct vm *vm, uint32_t vcpuid, uint32_t what);	/* bhyve/gdb.c */
void	 bhyve_tick(void);

#endif
