/* Accesses to control registers that exit: bits of CR0 and CR4 that the host owns, CR8, and XCR0. */
#include <stdbool.h>
#include <stdint.h>

#include "cpufunc.h"
#include "vmx_internal.h"

/* Exit qualification of a control register access (SDM volume 3, table 28-3). */
#define	QUAL_CR(q)	((int)((q) & 0xf))
#define	QUAL_TYPE(q)	((int)((q) >> 4 & 0x3))
#define	QUAL_REG(q)	((int)((q) >> 8 & 0xf))
#define	MOV_TO_CR	0
#define	MOV_FROM_CR	1

#define	XCR0_X87	(1ull << 0)
#define	XCR0_SSE	(1ull << 1)
#define	XCR0_AVX	(1ull << 2)
#define	XCR0_KNOWN	(XCR0_X87 | XCR0_SSE | XCR0_AVX)
#define	XCR0_HOST	XCR0_X87

/* Paging goes on or off: long mode with it, if EFER.LME says so (SDM volume 3, 10.8.5). */
static void
switch_paging(bool on)
{
	uint64_t efer = vmcs_read(VMCS_GUEST_IA32_EFER), ctls = vmcs_read(VMCS_ENTRY_CTLS);

	if (on && (efer & EFER_LME) != 0) {
		efer |= EFER_LMA;
		ctls |= VM_ENTRY_GUEST_LMA;
	} else {
		efer &= ~EFER_LMA;
		ctls &= ~(uint64_t)VM_ENTRY_GUEST_LMA;
	}
	vmcs_write(VMCS_GUEST_IA32_EFER, efer);
	vmcs_write(VMCS_ENTRY_CTLS, ctls);
}

static bool
vmx_emulate_cr0_write(struct vmx_vcpu *vcpu, uint64_t val)
{
	uint64_t changed = vmcs_read(VMCS_GUEST_CR0) ^ val;

	if (val >> 32 != 0 || ((val & CR0_PG) != 0 && (val & CR0_PE) == 0) ||
	    ((val & CR0_NW) != 0 && (val & CR0_CD) == 0) ||
	    ((changed & val & CR0_PG) != 0 && (vmcs_read(VMCS_GUEST_IA32_EFER) & EFER_LME) != 0 &&
	    (vmcs_read(VMCS_GUEST_CR4) & CR4_PAE) == 0)) {
		vm_inject_gp(vcpu->vcpu);
		return (true);
	}
	vmcs_write(VMCS_CR0_SHADOW, val);
	vmcs_write(VMCS_GUEST_CR0, vmx_fix_cr0(val));
	if ((changed & CR0_PG) != 0)
		switch_paging((val & CR0_PG) != 0);
	return (true);
}

/* VMXE is not offered: to the guest it is a reserved bit. */
static bool
vmx_emulate_cr4_write(struct vmx_vcpu *vcpu, uint64_t val)
{
	if ((val & (CR4_VMXE | vmx_settings.cr4_zeros_mask)) != 0) {
		vm_inject_gp(vcpu->vcpu);
		return (true);
	}
	vmcs_write(VMCS_CR4_SHADOW, val);
	vmcs_write(VMCS_GUEST_CR4, vmx_fix_cr4(val));
	return (true);
}

static bool
vmx_emulate_cr8_access(struct vmx_vcpu *vcpu, int type, int reg)
{
	struct vlapic *vlapic = vm_lapic(vcpu->vcpu);
	uint64_t val;

	if (type == MOV_FROM_CR) {
		vmx_set_guest_reg(vcpu, reg, vlapic_get_cr8(vlapic));
		return (true);
	}
	val = vmx_get_guest_reg(vcpu, reg);
	if (val >> 4 != 0)
		vm_inject_gp(vcpu->vcpu);
	else
		vlapic_set_cr8(vlapic, val);
	return (true);
}

bool
vmx_emulate_cr_access(struct vmx_vcpu *vcpu, uint64_t qualification)
{
	int type = QUAL_TYPE(qualification), reg = QUAL_REG(qualification);

	switch (QUAL_CR(qualification)) {
	case 0:
		return (type == MOV_TO_CR && vmx_emulate_cr0_write(vcpu, vmx_get_guest_reg(vcpu, reg)));
	case 4:
		return (type == MOV_TO_CR && vmx_emulate_cr4_write(vcpu, vmx_get_guest_reg(vcpu, reg)));
	case 8:
		return ((type == MOV_TO_CR || type == MOV_FROM_CR) && vmx_emulate_cr8_access(vcpu, type, reg));
	default:
		return (false);
	}
}

/* The host itself does not use XCR0: OSXSAVE is on only while it is written. */
static void
load_xcr0(uint64_t val)
{
	uint64_t cr4 = rcr4();

	load_cr4(cr4 | CR4_OSXSAVE);
	load_xcr(0, val);
	load_cr4(cr4);
}

static uint64_t
xcr0_supported(void)
{
	uint32_t regs[4];

	cpuid_count(0xd, 0, regs);
	return (((uint64_t)regs[3] << 32 | regs[0]) & XCR0_KNOWN);
}

/* XSETBV exits always. #GP as the instruction defines it (SDM volume 2). */
bool
vmx_emulate_xsetbv(struct vmx_vcpu *vcpu)
{
	const struct vmxctx *ctx = &vcpu->ctx;
	uint64_t val = ctx->guest_rdx << 32 | (uint32_t)ctx->guest_rax;

	if ((uint32_t)ctx->guest_rcx != 0 || (val & XCR0_X87) == 0 || (val & ~xcr0_supported()) != 0 ||
	    ((val & XCR0_AVX) != 0 && (val & XCR0_SSE) == 0)) {
		vm_inject_gp(vcpu->vcpu);
		return (true);
	}
	vcpu->guest_xcr0 = val;
	load_xcr0(val);
	return (true);
}

void
vmx_xcr0_guest_enter(const struct vmx_vcpu *vcpu)
{
	if (vcpu->guest_xcr0 != XCR0_HOST)
		load_xcr0(vcpu->guest_xcr0);
}

void
vmx_xcr0_guest_exit(const struct vmx_vcpu *vcpu)
{
	if (vcpu->guest_xcr0 != XCR0_HOST)
		load_xcr0(XCR0_HOST);
}
