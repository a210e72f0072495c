/*
 * The VMCS: field encodings and control bits as in SDM volume 3, appendix B and chapter 25, named as FreeBSD names them,
 * and the instructions that reach it.
 */
#ifndef VMCS_H
#define VMCS_H

#include <stdbool.h>
#include <stdint.h>

struct seg_desc;

/* The only part of a VMCS region that software may know: its first words. */
struct vmcs {
	uint32_t identifier;
	uint32_t abort_code;
	uint8_t data[4096 - 8];
};
_Static_assert(sizeof(struct vmcs) == 4096, "a VMCS region is one page");

/* A register number that selects a raw field (bhyvectl --get-vmcs-*). */
#define VMCS_IDENT(field)		((int)(0x80000000u | (field)))

/* 16-bit control and guest fields */
#define VMCS_VPID			0x0000
#define VMCS_GUEST_ES_SELECTOR		0x0800
#define VMCS_GUEST_CS_SELECTOR		0x0802
#define VMCS_GUEST_SS_SELECTOR		0x0804
#define VMCS_GUEST_DS_SELECTOR		0x0806
#define VMCS_GUEST_FS_SELECTOR		0x0808
#define VMCS_GUEST_GS_SELECTOR		0x080a
#define VMCS_GUEST_LDTR_SELECTOR	0x080c
#define VMCS_GUEST_TR_SELECTOR		0x080e

/* 16-bit host fields */
#define VMCS_HOST_ES_SELECTOR		0x0c00
#define VMCS_HOST_CS_SELECTOR		0x0c02
#define VMCS_HOST_SS_SELECTOR		0x0c04
#define VMCS_HOST_DS_SELECTOR		0x0c06
#define VMCS_HOST_FS_SELECTOR		0x0c08
#define VMCS_HOST_GS_SELECTOR		0x0c0a
#define VMCS_HOST_TR_SELECTOR		0x0c0c

/* 64-bit control, read-only and guest fields */
#define VMCS_MSR_BITMAP			0x2004
#define VMCS_TSC_OFFSET			0x2010
#define VMCS_EPTP			0x201a
#define VMCS_GUEST_PHYSICAL_ADDRESS	0x2400
#define VMCS_LINK_POINTER		0x2800
#define VMCS_GUEST_IA32_DEBUGCTL	0x2802
#define VMCS_GUEST_IA32_EFER		0x2806
#define VMCS_GUEST_PDPTE0		0x280a
#define VMCS_GUEST_PDPTE1		0x280c
#define VMCS_GUEST_PDPTE2		0x280e
#define VMCS_GUEST_PDPTE3		0x2810
#define VMCS_HOST_IA32_EFER		0x2c02

/* 32-bit control fields */
#define VMCS_PIN_BASED_CTLS		0x4000
#define VMCS_PRI_PROC_BASED_CTLS	0x4002
#define VMCS_EXCEPTION_BITMAP		0x4004
#define VMCS_CR3_TARGET_COUNT		0x400a
#define VMCS_EXIT_CTLS			0x400c
#define VMCS_EXIT_MSR_STORE_COUNT	0x400e
#define VMCS_EXIT_MSR_LOAD_COUNT	0x4010
#define VMCS_ENTRY_CTLS			0x4012
#define VMCS_ENTRY_MSR_LOAD_COUNT	0x4014
#define VMCS_ENTRY_INTR_INFO		0x4016
#define VMCS_ENTRY_EXCEPTION_ERROR	0x4018
#define VMCS_ENTRY_INST_LENGTH		0x401a
#define VMCS_SEC_PROC_BASED_CTLS	0x401e

/* 32-bit read-only fields */
#define VMCS_INSTRUCTION_ERROR		0x4400
#define VMCS_EXIT_REASON		0x4402
#define VMCS_EXIT_INTR_INFO		0x4404
#define VMCS_EXIT_INTR_ERRCODE		0x4406
#define VMCS_IDT_VECTORING_INFO		0x4408
#define VMCS_IDT_VECTORING_ERROR	0x440a
#define VMCS_EXIT_INSTRUCTION_LENGTH	0x440c

/* 32-bit guest and host fields */
#define VMCS_GUEST_ES_LIMIT		0x4800
#define VMCS_GUEST_LDTR_LIMIT		0x480c
#define VMCS_GUEST_TR_LIMIT		0x480e
#define VMCS_GUEST_GDTR_LIMIT		0x4810
#define VMCS_GUEST_IDTR_LIMIT		0x4812
#define VMCS_GUEST_ES_ACCESS_RIGHTS	0x4814
#define VMCS_GUEST_CS_ACCESS_RIGHTS	0x4816
#define VMCS_GUEST_SS_ACCESS_RIGHTS	0x4818
#define VMCS_GUEST_LDTR_ACCESS_RIGHTS	0x4820
#define VMCS_GUEST_TR_ACCESS_RIGHTS	0x4822
#define VMCS_GUEST_INTERRUPTIBILITY	0x4824
#define VMCS_GUEST_ACTIVITY		0x4826
#define VMCS_GUEST_IA32_SYSENTER_CS	0x482a
#define VMCS_PREEMPTION_TIMER_VALUE	0x482e
#define VMCS_HOST_IA32_SYSENTER_CS	0x4c00

/* natural-width control and read-only fields */
#define VMCS_CR0_MASK			0x6000
#define VMCS_CR4_MASK			0x6002
#define VMCS_CR0_SHADOW			0x6004
#define VMCS_CR4_SHADOW			0x6006
#define VMCS_EXIT_QUALIFICATION		0x6400
#define VMCS_GUEST_LINEAR_ADDRESS	0x640a

/* natural-width guest and host fields */
#define VMCS_GUEST_CR0			0x6800
#define VMCS_GUEST_CR3			0x6802
#define VMCS_GUEST_CR4			0x6804
#define VMCS_GUEST_ES_BASE		0x6806
#define VMCS_GUEST_CS_BASE		0x6808
#define VMCS_GUEST_LDTR_BASE		0x6812
#define VMCS_GUEST_TR_BASE		0x6814
#define VMCS_GUEST_GDTR_BASE		0x6816
#define VMCS_GUEST_IDTR_BASE		0x6818
#define VMCS_GUEST_DR7			0x681a
#define VMCS_GUEST_RSP			0x681c
#define VMCS_GUEST_RIP			0x681e
#define VMCS_GUEST_RFLAGS		0x6820
#define VMCS_GUEST_PENDING_DBG_EXCEPTIONS 0x6822
#define VMCS_GUEST_IA32_SYSENTER_ESP	0x6824
#define VMCS_GUEST_IA32_SYSENTER_EIP	0x6826
#define VMCS_HOST_CR0			0x6c00
#define VMCS_HOST_CR3			0x6c02
#define VMCS_HOST_CR4			0x6c04
#define VMCS_HOST_FS_BASE		0x6c06
#define VMCS_HOST_GS_BASE		0x6c08
#define VMCS_HOST_TR_BASE		0x6c0a
#define VMCS_HOST_GDTR_BASE		0x6c0c
#define VMCS_HOST_IDTR_BASE		0x6c0e
#define VMCS_HOST_IA32_SYSENTER_ESP	0x6c10
#define VMCS_HOST_IA32_SYSENTER_EIP	0x6c12
#define VMCS_HOST_RSP			0x6c14
#define VMCS_HOST_RIP			0x6c16

/* Entry, exit and IDT-vectoring information: vector in bits 7:0 */
#define VMCS_INTR_VALID			(1u << 31)
#define VMCS_INTR_DEL_ERRCODE		(1u << 11)
#define VMCS_INTR_T_MASK		0x700u
#define VMCS_INTR_T_HWINTR		(0u << 8)
#define VMCS_INTR_T_NMI			(2u << 8)
#define VMCS_INTR_T_HWEXCEPTION		(3u << 8)
#define VMCS_INTR_T_SWINTR		(4u << 8)
#define VMCS_INTR_T_PRIV_SWEXCEPTION	(5u << 8)
#define VMCS_INTR_T_SWEXCEPTION		(6u << 8)

/* Guest interruptibility */
#define VMCS_INTERRUPTIBILITY_STI_BLOCKING	(1u << 0)
#define VMCS_INTERRUPTIBILITY_MOVSS_BLOCKING	(1u << 1)
#define VMCS_INTERRUPTIBILITY_NMI_BLOCKING	(1u << 3)
#define HWINTR_BLOCKING	(VMCS_INTERRUPTIBILITY_STI_BLOCKING | VMCS_INTERRUPTIBILITY_MOVSS_BLOCKING)

/* Pin-based controls */
#define PINBASED_EXTINT_EXITING		(1u << 0)
#define PINBASED_NMI_EXITING		(1u << 3)
#define PINBASED_VIRTUAL_NMI		(1u << 5)
#define PINBASED_PREMPTION_TIMER	(1u << 6)

/* Primary processor-based controls */
#define PROCBASED_INT_WINDOW_EXITING	(1u << 2)
#define PROCBASED_TSC_OFFSET		(1u << 3)
#define PROCBASED_HLT_EXITING		(1u << 7)
#define PROCBASED_MWAIT_EXITING		(1u << 10)
#define PROCBASED_CR3_LOAD_EXITING	(1u << 15)
#define PROCBASED_CR3_STORE_EXITING	(1u << 16)
#define PROCBASED_CR8_LOAD_EXITING	(1u << 19)
#define PROCBASED_CR8_STORE_EXITING	(1u << 20)
#define PROCBASED_USE_TPR_SHADOW	(1u << 21)
#define PROCBASED_NMI_WINDOW_EXITING	(1u << 22)
#define PROCBASED_MOV_DR_EXITING	(1u << 23)
#define PROCBASED_IO_EXITING		(1u << 24)
#define PROCBASED_IO_BITMAPS		(1u << 25)
#define PROCBASED_MTF			(1u << 27)
#define PROCBASED_MSR_BITMAPS		(1u << 28)
#define PROCBASED_MONITOR_EXITING	(1u << 29)
#define PROCBASED_PAUSE_EXITING		(1u << 30)
#define PROCBASED_SECONDARY_CONTROLS	(1u << 31)

/* Secondary processor-based controls */
#define PROCBASED2_ENABLE_EPT		(1u << 1)
#define PROCBASED2_ENABLE_RDTSCP	(1u << 3)
#define PROCBASED2_ENABLE_VPID		(1u << 5)
#define PROCBASED2_WBINVD_EXITING	(1u << 6)
#define PROCBASED2_UNRESTRICTED_GUEST	(1u << 7)
#define PROCBASED2_ENABLE_INVPCID	(1u << 12)

/* VM-exit controls */
#define VM_EXIT_SAVE_DEBUG_CONTROLS	(1u << 2)
#define VM_EXIT_HOST_LMA		(1u << 9)
#define VM_EXIT_ACKNOWLEDGE_INTERRUPT	(1u << 15)
#define VM_EXIT_SAVE_EFER		(1u << 20)
#define VM_EXIT_LOAD_EFER		(1u << 21)

/* VM-entry controls */
#define VM_ENTRY_LOAD_DEBUG_CONTROLS	(1u << 2)
#define VM_ENTRY_GUEST_LMA		(1u << 9)
#define VM_ENTRY_INTO_SMM		(1u << 10)
#define VM_ENTRY_DEACTIVATE_DUAL_MONITOR (1u << 11)
#define VM_ENTRY_LOAD_EFER		(1u << 15)

/* How a VMX instruction ended */
enum { VM_SUCCESS, VM_FAIL_INVALID, VM_FAIL_VALID };

/* The instruction's flags as one of the above. */
#define VMX_STATUS(cf, zf)	((cf) ? VM_FAIL_INVALID : (zf) ? VM_FAIL_VALID : VM_SUCCESS)

static inline int
vmxon(const uint64_t *region_pa)
{
	bool cf, zf;

	__asm__ __volatile__("vmxon %2" : "=@ccc"(cf), "=@ccz"(zf) : "m"(*region_pa) : "memory");
	return (VMX_STATUS(cf, zf));
}

static inline void
vmxoff(void)
{
	__asm__ __volatile__("vmxoff" : : : "memory", "cc");
}

static inline int
vmclear(const uint64_t *vmcs_pa)
{
	bool cf, zf;

	__asm__ __volatile__("vmclear %2" : "=@ccc"(cf), "=@ccz"(zf) : "m"(*vmcs_pa) : "memory");
	return (VMX_STATUS(cf, zf));
}

static inline int
vmptrld(const uint64_t *vmcs_pa)
{
	bool cf, zf;

	__asm__ __volatile__("vmptrld %2" : "=@ccc"(cf), "=@ccz"(zf) : "m"(*vmcs_pa) : "memory");
	return (VMX_STATUS(cf, zf));
}

static inline int
vmread(uint64_t field, uint64_t *val)
{
	bool cf, zf;

	__asm__ __volatile__("vmread %3, %0" : "=r"(*val), "=@ccc"(cf), "=@ccz"(zf) : "r"(field));
	return (VMX_STATUS(cf, zf));
}

static inline int
vmwrite(uint64_t field, uint64_t val)
{
	bool cf, zf;

	__asm__ __volatile__("vmwrite %2, %3" : "=@ccc"(cf), "=@ccz"(zf) : "r"(val), "r"(field) : "memory");
	return (VMX_STATUS(cf, zf));
}

#define INVVPID_TYPE_SINGLE_CONTEXT	1ull
struct invvpid_desc {
	uint64_t vpid;
	uint64_t linear_addr;
};

static inline int
invvpid(uint64_t type, const struct invvpid_desc *desc)
{
	bool cf, zf;

	__asm__ __volatile__("invvpid %2, %3" : "=@ccc"(cf), "=@ccz"(zf) : "m"(*desc), "r"(type) : "memory");
	return (VMX_STATUS(cf, zf));
}

#define INVEPT_TYPE_SINGLE_CONTEXT	1ull
struct invept_desc {
	uint64_t eptp;
	uint64_t reserved;
};

static inline int
invept(uint64_t type, const struct invept_desc *desc)
{
	bool cf, zf;

	__asm__ __volatile__("invept %2, %3" : "=@ccc"(cf), "=@ccz"(zf) : "m"(*desc), "r"(type) : "memory");
	return (VMX_STATUS(cf, zf));
}

/* Fields that must exist, of the VMCS that is current on this CPU; anything else is a bug and ends the kernel. */
uint64_t vmcs_read(uint32_t field);
void	 vmcs_write(uint32_t field, uint64_t val);

/* Make a VMCS current on this CPU, and let go of it: its data are in memory then, its launch state is clear. */
void	vmcs_load(const uint64_t *vmcs_pa);
void	vmcs_unload(const uint64_t *vmcs_pa);

/*
 * Access by register number (enum vm_reg_name, or VMCS_IDENT(field) to read) to the current VMCS. 0, or EINVAL: not a
 * register of the VMCS, or no such field on this processor.
 */
int	vmcs_getreg(int ident, uint64_t *val);
int	vmcs_setreg(int ident, uint64_t val);
int	vmcs_getdesc(int ident, struct seg_desc *desc);
int	vmcs_setdesc(int ident, const struct seg_desc *desc);

#endif
