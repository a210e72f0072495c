/*
 * The virtual machine control block of SVM (AMD64 Architecture Programmer's Manual, volume 2, appendix B) and
 * the only functions that change those of its fields which a processor may cache between two VMRUNs.
 */
#ifndef VMCB_H
#define VMCB_H

#include <stdint.h>

struct svm_vcpu;
struct seg_desc;

/* Exit codes (APM volume 2, appendix C). */
#define VMCB_EXIT_CR0_READ	0x000
#define VMCB_EXIT_CR15_WRITE	0x01f
#define VMCB_EXIT_DR0_READ	0x020
#define VMCB_EXIT_DR15_WRITE	0x03f
#define VMCB_EXIT_EXCP0		0x040
#define VMCB_EXIT_EXCP31	0x05f
#define VMCB_EXIT_INTR		0x060
#define VMCB_EXIT_NMI		0x061
#define VMCB_EXIT_SMI		0x062
#define VMCB_EXIT_INIT		0x063
#define VMCB_EXIT_VINTR		0x064
#define VMCB_EXIT_CPUID		0x072
#define VMCB_EXIT_IRET		0x074
#define VMCB_EXIT_INVD		0x076
#define VMCB_EXIT_PAUSE		0x077
#define VMCB_EXIT_HLT		0x078
#define VMCB_EXIT_INVLPGA	0x07a
#define VMCB_EXIT_IO		0x07b
#define VMCB_EXIT_MSR		0x07c
#define VMCB_EXIT_FERR_FREEZE	0x07e
#define VMCB_EXIT_SHUTDOWN	0x07f
#define VMCB_EXIT_VMRUN		0x080
#define VMCB_EXIT_VMMCALL	0x081
#define VMCB_EXIT_VMLOAD	0x082
#define VMCB_EXIT_VMSAVE	0x083
#define VMCB_EXIT_STGI		0x084
#define VMCB_EXIT_CLGI		0x085
#define VMCB_EXIT_SKINIT	0x086
#define VMCB_EXIT_ICEBP		0x088
#define VMCB_EXIT_WBINVD	0x089
#define VMCB_EXIT_MONITOR	0x08a
#define VMCB_EXIT_MWAIT		0x08b
#define VMCB_EXIT_XSETBV	0x08d
#define VMCB_EXIT_NPF		0x400
#define VMCB_EXIT_INVALID	UINT64_MAX

/* Intercept vectors: five 32-bit words from offset 0. */
enum vmcb_intercept_word {
	VMCB_CR_INTERCEPT,		/* reads in the low half, writes in the high half */
	VMCB_DR_INTERCEPT,
	VMCB_EXC_INTERCEPT,
	VMCB_CTRL1_INTERCEPT,
	VMCB_CTRL2_INTERCEPT,
	VMCB_INTERCEPT_WORDS
};

/* VMCB_CTRL1_INTERCEPT */
#define VMCB_INTCPT_INTR	(1u << 0)
#define VMCB_INTCPT_NMI		(1u << 1)
#define VMCB_INTCPT_SMI		(1u << 2)
#define VMCB_INTCPT_INIT	(1u << 3)
#define VMCB_INTCPT_VINTR	(1u << 4)
#define VMCB_INTCPT_CPUID	(1u << 18)
#define VMCB_INTCPT_IRET	(1u << 20)
#define VMCB_INTCPT_INVD	(1u << 22)
#define VMCB_INTCPT_PAUSE	(1u << 23)
#define VMCB_INTCPT_HLT		(1u << 24)
#define VMCB_INTCPT_INVLPGA	(1u << 26)
#define VMCB_INTCPT_IO		(1u << 27)
#define VMCB_INTCPT_MSR		(1u << 28)
#define VMCB_INTCPT_FERR_FREEZE	(1u << 30)
#define VMCB_INTCPT_SHUTDOWN	(1u << 31)

/* VMCB_CTRL2_INTERCEPT */
#define VMCB_INTCPT_VMRUN	(1u << 0)
#define VMCB_INTCPT_VMLOAD	(1u << 2)
#define VMCB_INTCPT_VMSAVE	(1u << 3)
#define VMCB_INTCPT_STGI	(1u << 4)
#define VMCB_INTCPT_CLGI	(1u << 5)
#define VMCB_INTCPT_SKINIT	(1u << 6)
#define VMCB_INTCPT_ICEBP	(1u << 8)
#define VMCB_INTCPT_WBINVD	(1u << 9)
#define VMCB_INTCPT_MONITOR	(1u << 10)
#define VMCB_INTCPT_MWAIT	(1u << 11)

#define VMCB_TLB_FLUSH_NOTHING	0
#define VMCB_TLB_FLUSH_ALL	1
#define VMCB_TLB_FLUSH_GUEST	3

/* Clean bits (APM volume 2, 15.15.3): set = the processor may use what it loaded last. */
#define VMCB_CACHE_I		(1u << 0)	/* intercepts, TSC offset, pause filter */
#define VMCB_CACHE_IOPM		(1u << 1)	/* I/O and MSR permission maps */
#define VMCB_CACHE_ASID		(1u << 2)
#define VMCB_CACHE_TPR		(1u << 3)	/* V_TPR .. V_INTR_VECTOR */
#define VMCB_CACHE_NP		(1u << 4)	/* nested paging: N_CR3, G_PAT */
#define VMCB_CACHE_CR		(1u << 5)	/* CR0, CR3, CR4, EFER */
#define VMCB_CACHE_DR		(1u << 6)	/* DR6, DR7 */
#define VMCB_CACHE_DT		(1u << 7)	/* GDTR, IDTR */
#define VMCB_CACHE_SEG		(1u << 8)	/* CS, DS, ES, SS, CPL */
#define VMCB_CACHE_CR2		(1u << 9)
#define VMCB_CACHE_LBR		(1u << 10)	/* DEBUGCTL and branch records: never cached */
#define VMCB_CACHE_AVIC		(1u << 11)	/* pages of the interrupt controller: not used */
#define VMCB_CACHE_NONE		0u		/* a field without clean bit: loaded at every VMRUN */
#define VMCB_CACHE_ALL		UINT32_MAX

#define VMCB_CACHE_DEFAULT	(VMCB_CACHE_I | VMCB_CACHE_IOPM | VMCB_CACHE_ASID | VMCB_CACHE_TPR | \
				 VMCB_CACHE_NP | VMCB_CACHE_CR | VMCB_CACHE_DR | VMCB_CACHE_DT | \
				 VMCB_CACHE_SEG | VMCB_CACHE_CR2)

/* EVENTINJ and EXITINTINFO (APM volume 2, 15.7.2 and 15.20). */
#define VMCB_EVENTINJ_TYPE_INTR		(0u << 8)
#define VMCB_EVENTINJ_TYPE_NMI		(2u << 8)
#define VMCB_EVENTINJ_TYPE_EXCEPTION	(3u << 8)
#define VMCB_EVENTINJ_TYPE_INTn		(4u << 8)
#define VMCB_EVENTINJ_TYPE_MASK		(7u << 8)
#define VMCB_EVENTINJ_EC_VALID		(1u << 11)
#define VMCB_EVENTINJ_VALID		(1u << 31)
#define VMCB_EXITINTINFO_VALID(x)	(((x) & VMCB_EVENTINJ_VALID) != 0)

/* EXITINFO1 of VMCB_EXIT_IO. */
#define VMCB_IO_IN		(1u << 0)
#define VMCB_IO_STR		(1u << 2)
#define VMCB_IO_REP		(1u << 3)
#define VMCB_IO_SIZE(info)	(((info) >> 4) & 7)
#define VMCB_IO_PORT(info)	(((info) >> 16) & 0xffff)

/* EXITINFO1 of VMCB_EXIT_NPF: the page fault error code. */
#define VMCB_NPF_INFO1_W	(1u << 1)
#define VMCB_NPF_INFO1_RSV	(1u << 3)
#define VMCB_NPF_INFO1_ID	(1u << 4)

/* A register number below zero names a raw field: 0x80000000 | bytes << 16 | offset. */
#define VMCB_ACCESS(offset, bytes)	((int)(0x80000000u | ((bytes) << 16) | (offset)))
#define VMCB_ACCESS_BYTES(reg)		(((uint32_t)(reg) >> 16) & 0x7fff)
#define VMCB_ACCESS_OFFSET(reg)		((uint32_t)(reg) & 0xfff)

#define VMCB_OFF_CLEAN		0x0c0
#define VMCB_OFF_SAVE		0x400

struct vmcb_segment {
	uint16_t selector;
	uint16_t attrib;		/* bits 7:0 = descriptor bits 47:40, bits 11:8 = bits 55:52 */
	uint32_t limit;
	uint64_t base;
};

struct vmcb_ctrl {
	uint32_t intercept[VMCB_INTERCEPT_WORDS];	/* 0x000 */
	uint8_t  pad1[0x28];
	uint16_t pause_filthresh;			/* 0x03c */
	uint16_t pause_filcnt;
	uint64_t iopm_base_pa;				/* 0x040 */
	uint64_t msrpm_base_pa;
	uint64_t tsc_offset;				/* 0x050 */
	uint32_t asid;
	uint8_t  tlb_ctrl;				/* 0x05c */
	uint8_t  pad2[3];
	uint8_t  v_tpr;					/* 0x060 */
	uint8_t  v_irq;
	uint8_t  v_intr_prio : 4;
	uint8_t  v_ign_tpr : 1;
	uint8_t  : 3;
	uint8_t  v_intr_masking;
	uint8_t  v_intr_vector;
	uint8_t  pad3[3];
	uint64_t intr_shadow;				/* 0x068, bit 0 */
	uint64_t exitcode;				/* 0x070 */
	uint64_t exitinfo1;
	uint64_t exitinfo2;
	uint64_t exitintinfo;				/* 0x088 */
	uint64_t np_enable;				/* 0x090 */
	uint8_t  pad4[0x10];
	uint64_t eventinj;				/* 0x0a8 */
	uint64_t n_cr3;					/* 0x0b0 */
	uint64_t lbr_virt_en;				/* 0x0b8 */
	uint32_t vmcb_clean;				/* 0x0c0 */
	uint32_t pad5;
	uint64_t nrip;					/* 0x0c8 */
	uint8_t  inst_len;				/* 0x0d0 */
	uint8_t  inst_bytes[15];
	uint8_t  pad6[0x320];
};

struct vmcb_state {
	struct vmcb_segment es;				/* 0x400 */
	struct vmcb_segment cs;
	struct vmcb_segment ss;
	struct vmcb_segment ds;
	struct vmcb_segment fs;
	struct vmcb_segment gs;
	struct vmcb_segment gdt;
	struct vmcb_segment ldt;
	struct vmcb_segment idt;
	struct vmcb_segment tr;				/* 0x490 */
	uint8_t  pad1[0x2b];
	uint8_t  cpl;					/* 0x4cb */
	uint32_t pad2;
	uint64_t efer;					/* 0x4d0 */
	uint8_t  pad3[0x70];
	uint64_t cr4;					/* 0x548 */
	uint64_t cr3;
	uint64_t cr0;
	uint64_t dr7;					/* 0x560 */
	uint64_t dr6;
	uint64_t rflags;
	uint64_t rip;
	uint8_t  pad4[0x58];
	uint64_t rsp;					/* 0x5d8 */
	uint8_t  pad5[0x18];
	uint64_t rax;					/* 0x5f8 */
	uint64_t star;
	uint64_t lstar;
	uint64_t cstar;
	uint64_t sfmask;
	uint64_t kernelgsbase;				/* 0x620 */
	uint64_t sysenter_cs;
	uint64_t sysenter_esp;
	uint64_t sysenter_eip;
	uint64_t cr2;					/* 0x640 */
	uint8_t  pad6[0x20];
	uint64_t g_pat;					/* 0x668 */
	uint64_t dbgctl;
	uint64_t br_from;
	uint64_t br_to;
	uint64_t int_from;
	uint64_t int_to;
	uint8_t  pad7[0x968];
};

struct vmcb {
	struct vmcb_ctrl ctrl;
	struct vmcb_state state;
};

#define VMCB_ASSERT_AT(member, offset) \
	_Static_assert(__builtin_offsetof(struct vmcb, member) == (offset), "VMCB layout: " #member)
VMCB_ASSERT_AT(ctrl.iopm_base_pa, 0x040);
VMCB_ASSERT_AT(ctrl.asid, 0x058);
VMCB_ASSERT_AT(ctrl.v_intr_vector, 0x064);
VMCB_ASSERT_AT(ctrl.exitintinfo, 0x088);
VMCB_ASSERT_AT(ctrl.eventinj, 0x0a8);
VMCB_ASSERT_AT(ctrl.vmcb_clean, 0x0c0);
VMCB_ASSERT_AT(ctrl.inst_bytes, 0x0d1);
VMCB_ASSERT_AT(state, 0x400);
VMCB_ASSERT_AT(state.cpl, 0x4cb);
VMCB_ASSERT_AT(state.efer, 0x4d0);
VMCB_ASSERT_AT(state.dr7, 0x560);
VMCB_ASSERT_AT(state.rsp, 0x5d8);
VMCB_ASSERT_AT(state.rax, 0x5f8);
VMCB_ASSERT_AT(state.cr2, 0x640);
VMCB_ASSERT_AT(state.dbgctl, 0x670);
_Static_assert(sizeof(struct vmcb) == 4096, "a VMCB is one page");

/*
 * Register access by FreeBSD's numbers (enum vm_reg_name) or VMCB_ACCESS(). Both return 0 or EINVAL for a
 * register that does not live in the VMCB. vmcb_write() also refuses raw fields.
 */
int	vmcb_read(struct svm_vcpu *vcpu, int ident, uint64_t *val);
int	vmcb_write(struct svm_vcpu *vcpu, int ident, uint64_t val);
int	vmcb_getdesc(struct svm_vcpu *vcpu, int reg, struct seg_desc *desc);
int	vmcb_setdesc(struct svm_vcpu *vcpu, int reg, const struct seg_desc *desc);

/* The other fields with a clean bit. Each marks its group only when the value really changes. */
void	vmcb_set_intercept(struct svm_vcpu *vcpu, enum vmcb_intercept_word word, uint32_t mask, int enable);
void	vmcb_set_tsc_offset(struct svm_vcpu *vcpu, uint64_t offset);
void	vmcb_set_asid(struct svm_vcpu *vcpu, uint32_t asid);
void	vmcb_set_v_tpr(struct svm_vcpu *vcpu, uint8_t v_tpr);
void	vmcb_set_v_irq(struct svm_vcpu *vcpu, int pending);

/* The reset contents: intercepts, maps, nested paging, PAT, DR6 and DR7. */
void	vmcb_init(struct svm_vcpu *vcpu, uint64_t iopm_pa, uint64_t msrpm_pa, uint64_t n_cr3);

#endif
