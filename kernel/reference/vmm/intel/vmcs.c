#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm.h"
#include "vmcs.h"

uint64_t
vmcs_read(uint32_t field)
{
	uint64_t val = 0;
	int error = vmread(field, &val);

	if (error != VM_SUCCESS)
		panic("vmread of field %#x failed with %d", field, error);
	return (val);
}

void
vmcs_write(uint32_t field, uint64_t val)
{
	int error = vmwrite(field, val);

	if (error != VM_SUCCESS)
		panic("vmwrite of %#lx to field %#x failed with %d", val, field, error);
}

void
vmcs_load(const uint64_t *vmcs_pa)
{
	int error = vmptrld(vmcs_pa);

	if (error != VM_SUCCESS)
		panic("vmptrld of %#lx failed with %d", *vmcs_pa, error);
}

void
vmcs_unload(const uint64_t *vmcs_pa)
{
	int error = vmclear(vmcs_pa);

	if (error != VM_SUCCESS)
		panic("vmclear of %#lx failed with %d", *vmcs_pa, error);
}

/* Field of each register that lives in the VMCS. */
struct reg_field {
	int reg;
	uint32_t field;
};

static const struct reg_field reg_fields[] = {
	{ VM_REG_GUEST_CR0, VMCS_GUEST_CR0 },
	{ VM_REG_GUEST_CR3, VMCS_GUEST_CR3 },
	{ VM_REG_GUEST_CR4, VMCS_GUEST_CR4 },
	{ VM_REG_GUEST_DR7, VMCS_GUEST_DR7 },
	{ VM_REG_GUEST_RSP, VMCS_GUEST_RSP },
	{ VM_REG_GUEST_RIP, VMCS_GUEST_RIP },
	{ VM_REG_GUEST_RFLAGS, VMCS_GUEST_RFLAGS },
	{ VM_REG_GUEST_ES, VMCS_GUEST_ES_SELECTOR },
	{ VM_REG_GUEST_CS, VMCS_GUEST_CS_SELECTOR },
	{ VM_REG_GUEST_SS, VMCS_GUEST_SS_SELECTOR },
	{ VM_REG_GUEST_DS, VMCS_GUEST_DS_SELECTOR },
	{ VM_REG_GUEST_FS, VMCS_GUEST_FS_SELECTOR },
	{ VM_REG_GUEST_GS, VMCS_GUEST_GS_SELECTOR },
	{ VM_REG_GUEST_TR, VMCS_GUEST_TR_SELECTOR },
	{ VM_REG_GUEST_LDTR, VMCS_GUEST_LDTR_SELECTOR },
	{ VM_REG_GUEST_EFER, VMCS_GUEST_IA32_EFER },
	{ VM_REG_GUEST_PDPTE0, VMCS_GUEST_PDPTE0 },
	{ VM_REG_GUEST_PDPTE1, VMCS_GUEST_PDPTE1 },
	{ VM_REG_GUEST_PDPTE2, VMCS_GUEST_PDPTE2 },
	{ VM_REG_GUEST_PDPTE3, VMCS_GUEST_PDPTE3 },
	{ VM_REG_GUEST_ENTRY_INST_LENGTH, VMCS_ENTRY_INST_LENGTH },
};

static bool
vmcs_field_of(int ident, uint32_t *field)
{
	for (size_t i = 0; i < sizeof(reg_fields) / sizeof(reg_fields[0]); i++) {
		if (reg_fields[i].reg == ident) {
			*field = reg_fields[i].field;
			return (true);
		}
	}
	return (false);
}

int
vmcs_getreg(int ident, uint64_t *val)
{
	uint32_t field;

	if (ident < 0)
		field = (uint32_t)ident & 0x7fffffff;
	else if (!vmcs_field_of(ident, &field))
		return (EINVAL);
	return (vmread(field, val) == VM_SUCCESS ? 0 : EINVAL);
}

int
vmcs_setreg(int ident, uint64_t val)
{
	uint32_t field;

	/* Raw fields would let a caller change the host's state: they are for reading only. */
	if (ident < 0 || !vmcs_field_of(ident, &field))
		return (EINVAL);
	vmcs_write(field, val);
	return (0);
}

/* ES, CS, SS, DS, FS, GS, LDTR and TR in the order of their fields, which are two apart. */
static int
seg_index(int ident)
{
	static const int order[] = {
		VM_REG_GUEST_ES, VM_REG_GUEST_CS, VM_REG_GUEST_SS, VM_REG_GUEST_DS, VM_REG_GUEST_FS, VM_REG_GUEST_GS,
		VM_REG_GUEST_LDTR, VM_REG_GUEST_TR
	};

	for (int i = 0; i < (int)(sizeof(order) / sizeof(order[0])); i++) {
		if (order[i] == ident)
			return (i);
	}
	return (-1);
}

struct desc_fields {
	uint32_t base;
	uint32_t limit;
	uint32_t access;	/* 0: a table, which has none */
};

static int
desc_fields_of(int ident, struct desc_fields *fields)
{
	int index = seg_index(ident);

	if (ident == VM_REG_GUEST_GDTR) {
		*fields = (struct desc_fields){ VMCS_GUEST_GDTR_BASE, VMCS_GUEST_GDTR_LIMIT, 0 };
	} else if (ident == VM_REG_GUEST_IDTR) {
		*fields = (struct desc_fields){ VMCS_GUEST_IDTR_BASE, VMCS_GUEST_IDTR_LIMIT, 0 };
	} else if (index >= 0) {
		*fields = (struct desc_fields){ VMCS_GUEST_ES_BASE + 2 * (uint32_t)index,
		    VMCS_GUEST_ES_LIMIT + 2 * (uint32_t)index, VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * (uint32_t)index };
	} else {
		return (EINVAL);
	}
	return (0);
}

int
vmcs_getdesc(int ident, struct seg_desc *desc)
{
	struct desc_fields fields;
	int error = desc_fields_of(ident, &fields);

	if (error != 0)
		return (error);
	desc->base = vmcs_read(fields.base);
	desc->limit = (uint32_t)vmcs_read(fields.limit);
	desc->access = fields.access != 0 ? (uint32_t)vmcs_read(fields.access) : 0;
	return (0);
}

int
vmcs_setdesc(int ident, const struct seg_desc *desc)
{
	struct desc_fields fields;
	int error = desc_fields_of(ident, &fields);

	if (error != 0)
		return (error);
	vmcs_write(fields.base, desc->base);
	vmcs_write(fields.limit, desc->limit);
	if (fields.access != 0)
		vmcs_write(fields.access, desc->access);
	return (0);
}
