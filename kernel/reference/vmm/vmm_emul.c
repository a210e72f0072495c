/* Emulation of the MOVs with which guests reach the local APIC's page: 89, 8b and c7 /0, 32 bits. */
#include "vm.h"
#include "vmm_internal.h"

#define CR0_PG		(1ull << 31)
#define PTE_P		1ull
#define PTE_PS		0x80ull
#define PTE_ADDRESS	0x000ffffffffff000ull
#define MAX_LENGTH	15

/* Guest-linear to guest-physical through the guest's own tables (64-bit mode) or as it is (no paging). */
static bool
translate(struct vcpu *vcpu, const struct vm_guest_paging *paging, uint64_t gla, uint64_t *gpa)
{
	uint64_t table = paging->cr3 & PTE_ADDRESS;

	if (paging->paging_mode == PAGING_MODE_FLAT) {
		*gpa = gla;
		return (true);
	}
	if (paging->paging_mode != PAGING_MODE_64)
		return (false);
	for (int level = 4; level >= 1; level--) {
		unsigned shift = 12 + 9 * (unsigned)(level - 1);
		const uint64_t *page = vm_gpa_page(vcpu->vm, table, false);
		uint64_t entry;

		if (page == NULL)
			return (false);
		entry = page[gla >> shift & 511];
		if ((entry & PTE_P) == 0)
			return (false);
		if (level == 1 || (level <= 3 && (entry & PTE_PS) != 0)) {
			uint64_t mask = (1ull << shift) - 1;

			*gpa = (entry & PTE_ADDRESS & ~mask) | (gla & mask);
			return (true);
		}
		table = entry & PTE_ADDRESS;
	}
	return (false);
}

uint8_t *
vm_linear_byte(struct vcpu *vcpu, const struct vm_guest_paging *paging, uint64_t gla, bool write)
{
	uint64_t gpa;
	uint8_t *page;

	if (!translate(vcpu, paging, gla, &gpa))
		return (NULL);
	page = vm_gpa_page(vcpu->vm, gpa & ~0xfffull, write);
	return (page == NULL ? NULL : page + (gpa & 0xfff));
}

static bool
fetch(struct vcpu *vcpu, const struct vm_guest_paging *paging, uint64_t gla, uint8_t bytes[MAX_LENGTH])
{
	for (int n = 0; n < MAX_LENGTH; n++) {
		const uint8_t *byte = vm_linear_byte(vcpu, paging, gla + (uint64_t)n, false);

		if (byte == NULL)
			return (n > 0);
		bytes[n] = *byte;
	}
	return (true);
}

static const int register_names[16] = {
	VM_REG_GUEST_RAX, VM_REG_GUEST_RCX, VM_REG_GUEST_RDX, VM_REG_GUEST_RBX, VM_REG_GUEST_RSP, VM_REG_GUEST_RBP,
	VM_REG_GUEST_RSI, VM_REG_GUEST_RDI, VM_REG_GUEST_R8, VM_REG_GUEST_R9, VM_REG_GUEST_R10, VM_REG_GUEST_R11,
	VM_REG_GUEST_R12, VM_REG_GUEST_R13, VM_REG_GUEST_R14, VM_REG_GUEST_R15
};

/* Length of ModRM, SIB and displacement. */
static int
modrm_length(uint8_t modrm, uint8_t sib)
{
	int mod = modrm >> 6, rm = modrm & 7, length = 1;

	if (mod == 3)
		return (-1);
	if (rm == 4) {
		length++;
		if (mod == 0 && (sib & 7) == 5)
			length += 4;
	} else if (mod == 0 && rm == 5) {
		length += 4;
	}
	return (length + (mod == 1 ? 1 : mod == 2 ? 4 : 0));
}

int
vm_emulate_instruction(struct vcpu *vcpu, bool *retu)
{
	struct vm_exit *vme = &vcpu->exitinfo;
	uint8_t bytes[MAX_LENGTH] = { 0 };
	uint64_t value = 0;
	uint32_t word;
	int at = 0, rex = 0, length, reg;

	if (!fetch(vcpu, &vme->u.inst_emul.paging, vme->u.inst_emul.cs_base + vme->rip, bytes))
		return (EFAULT);
	if (vme->u.inst_emul.paging.cpu_mode == CPU_MODE_64BIT && (bytes[at] & 0xf0) == 0x40)
		rex = bytes[at++];
	length = modrm_length(bytes[at + 1], bytes[at + 2]);
	if (length < 0 || (rex & 8) != 0)
		return (EFAULT);
	reg = register_names[(bytes[at + 1] >> 3 & 7) | (rex & 4) << 1];
	switch (bytes[at]) {
	case 0x89:
		if (vm_get_register(vcpu, reg, &value) != 0)
			return (EFAULT);
		word = (uint32_t)value;
		if (!vlapic_mmio(vcpu->vlapic, vme->u.inst_emul.gpa, true, &word, retu))
			return (EFAULT);
		break;
	case 0x8b:
		if (!vlapic_mmio(vcpu->vlapic, vme->u.inst_emul.gpa, false, &word, retu) ||
		    vm_set_register(vcpu, reg, word) != 0)
			return (EFAULT);
		break;
	case 0xc7:
		memcpy(&word, &bytes[at + 1 + length], sizeof(word));
		if (!vlapic_mmio(vcpu->vlapic, vme->u.inst_emul.gpa, true, &word, retu))
			return (EFAULT);
		length += 4;
		break;
	default:
		return (EFAULT);
	}
	vme->inst_length = at + 1 + length;
	vcpu->nextrip = vme->rip + (uint64_t)vme->inst_length;
	return (0);
}
