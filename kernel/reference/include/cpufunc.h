/*
 * Single instructions as functions, and the numbers of registers. Everything may be called anywhere.
 */
#ifndef CPUFUNC_H
#define CPUFUNC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MSR_TSC			0x010
#define MSR_APICBASE		0x01b
#define MSR_IA32_FEATURE_CONTROL 0x03a
#define MSR_SYSENTER_CS_MSR	0x174
#define MSR_SYSENTER_ESP_MSR	0x175
#define MSR_SYSENTER_EIP_MSR	0x176
#define MSR_MCG_CAP		0x179
#define MSR_MCG_STATUS		0x17a
#define MSR_DEBUGCTLMSR		0x1d9
#define MSR_PAT			0x277
#define MSR_VMX_BASIC		0x480
#define MSR_EFER		0xc0000080
#define MSR_STAR		0xc0000081
#define MSR_LSTAR		0xc0000082
#define MSR_CSTAR		0xc0000083
#define MSR_SF_MASK		0xc0000084
#define MSR_FSBASE		0xc0000100
#define MSR_GSBASE		0xc0000101
#define MSR_KGSBASE		0xc0000102
#define MSR_TSC_AUX		0xc0000103
#define MSR_SYSCFG		0xc0010010
#define MSR_AMDK8_IPM		0xc0010055
#define MSR_VM_CR		0xc0010114
#define MSR_VM_HSAVE_PA		0xc0010117
#define MSR_EXTFEATURES		0xc0011005

#define CR0_PE		(1ull << 0)
#define CR0_MP		0x00000002ull
#define CR0_EM		0x00000004ull
#define CR0_TS		0x00000008ull
#define CR0_ET		0x00000010ull
#define CR0_NE		0x00000020ull
#define CR0_WP		0x00010000ull
#define CR0_NW		0x20000000ull
#define CR0_CD		0x40000000ull
#define CR0_PG		(1ull << 31)
#define CR4_DE		0x00000008ull
#define CR4_PAE		(1ull << 5)
#define CR4_PGE		0x00000080ull
#define CR4_OSFXSR	0x00000200ull
#define CR4_OSXMMEXCPT	0x00000400ull
#define CR4_VMXE	0x00002000ull
#define CR4_OSXSAVE	0x00040000ull

#define PSL_I		0x00000200ull
#define PSL_T		0x00000100ull
#define PSL_RF		0x00010000ull
#define PSL_VM		0x00020000ull

#define EFER_SCE	(1ull << 0)
#define EFER_LME	(1ull << 8)
#define EFER_LMA	(1ull << 10)
#define EFER_NXE	(1ull << 11)

#define DR6_RESET_VALUE	0xffff0ff0ull
#define DR7_RESET_VALUE	0x400ull

#define IDT_DB		1
#define IDT_NMI		2
#define IDT_BP		3
#define IDT_UD		6
#define IDT_DF		8
#define IDT_TS		10
#define IDT_GP		13
#define IDT_PF		14
#define IDT_AC		17
#define IDT_MC		18

static inline uint64_t
rdmsr(uint32_t msr)
{
	uint32_t low, high;

	__asm__ __volatile__("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return ((uint64_t)high << 32 | low);
}

static inline void
wrmsr(uint32_t msr, uint64_t val)
{
	__asm__ __volatile__("wrmsr" : : "c"(msr), "a"((uint32_t)val), "d"((uint32_t)(val >> 32)) : "memory");
}

/* regs = eax, ebx, ecx, edx */
static inline void
cpuid_count(uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	__asm__ __volatile__("cpuid" : "=a"(regs[0]), "=b"(regs[1]), "=c"(regs[2]), "=d"(regs[3])
	    : "0"(leaf), "2"(subleaf));
}

static inline uint64_t
rdtsc(void)
{
	uint32_t low, high;

	__asm__ __volatile__("rdtsc" : "=a"(low), "=d"(high));
	return ((uint64_t)high << 32 | low);
}

#define CPUFUNC_REGISTER(name)							\
static inline uint64_t								\
r##name(void)									\
{										\
	uint64_t val;								\
										\
	__asm__ __volatile__("mov %%" #name ", %0" : "=r"(val));		\
	return (val);								\
}										\
										\
static inline void								\
load_##name(uint64_t val)							\
{										\
	__asm__ __volatile__("mov %0, %%" #name : : "r"(val) : "memory");	\
}
CPUFUNC_REGISTER(cr0)
CPUFUNC_REGISTER(cr2)
CPUFUNC_REGISTER(cr3)
CPUFUNC_REGISTER(cr4)
CPUFUNC_REGISTER(dr0)
CPUFUNC_REGISTER(dr1)
CPUFUNC_REGISTER(dr2)
CPUFUNC_REGISTER(dr3)
CPUFUNC_REGISTER(dr6)
CPUFUNC_REGISTER(dr7)

static inline uint64_t
rxcr(uint32_t n)
{
	uint32_t low, high;

	__asm__ __volatile__("xgetbv" : "=a"(low), "=d"(high) : "c"(n));
	return ((uint64_t)high << 32 | low);
}

static inline void
load_xcr(uint32_t n, uint64_t val)
{
	__asm__ __volatile__("xsetbv" : : "c"(n), "a"((uint32_t)val), "d"((uint32_t)(val >> 32)));
}

static inline uint64_t
read_rflags(void)
{
	uint64_t val;

	__asm__ __volatile__("pushfq; popq %0" : "=r"(val));
	return (val);
}

static inline void
write_rflags(uint64_t val)
{
	__asm__ __volatile__("pushq %0; popfq" : : "r"(val) : "memory", "cc");
}

static inline void
disable_intr(void)
{
	__asm__ __volatile__("cli" : : : "memory");
}

static inline void
enable_intr(void)
{
	__asm__ __volatile__("sti" : : : "memory");
}

static inline void
cpu_pause(void)
{
	__asm__ __volatile__("pause" : : : "memory");
}

/* Enable interrupts and wait for one; nothing can come between the two. */
static inline void
enable_intr_and_halt(void)
{
	__asm__ __volatile__("sti; hlt" : : : "memory");
}

static inline uint16_t
sldt(void)
{
	uint16_t sel;

	__asm__ __volatile__("sldt %0" : "=r"(sel));
	return (sel);
}

static inline void
lldt(uint16_t sel)
{
	__asm__ __volatile__("lldt %0" : : "r"(sel));
}

static inline void
ltr(uint16_t sel)
{
	__asm__ __volatile__("ltr %0" : : "r"(sel));
}

struct region_descriptor {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

static inline void
lgdt(const struct region_descriptor *rd)
{
	__asm__ __volatile__("lgdt %0" : : "m"(*rd));
}

static inline void
sgdt(struct region_descriptor *rd)
{
	__asm__ __volatile__("sgdt %0" : "=m"(*rd));
}

static inline void
lidt(const struct region_descriptor *rd)
{
	__asm__ __volatile__("lidt %0" : : "m"(*rd));
}

static inline void
sidt(struct region_descriptor *rd)
{
	__asm__ __volatile__("sidt %0" : "=m"(*rd));
}

static inline void
outb(uint16_t port, uint8_t val)
{
	__asm__ __volatile__("outb %0, %1" : : "a"(val), "Nd"(port));
}

static inline uint8_t
inb(uint16_t port)
{
	uint8_t val;

	__asm__ __volatile__("inb %1, %0" : "=a"(val) : "Nd"(port));
	return (val);
}

/* A device register. */
static inline uint32_t
mmio_read32(uint64_t address)
{
	return (*(volatile uint32_t *)(uintptr_t)address);
}

static inline void
mmio_write32(uint64_t address, uint32_t val)
{
	*(volatile uint32_t *)(uintptr_t)address = val;
}

#endif
