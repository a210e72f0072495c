/*
 * Saving a VM under a name and making another one of it: registers, floating point and local APIC of each vCPU, and the
 * memory. Everything else of the old VM is gone, control blocks included; the new one is made from the reset state.
 */
#include "defects.h"
#include "vmm_internal.h"

#define SNAPSHOTS	4
#define FXSAVE_SIZE	512

struct saved_vcpu {
	bool used, parked, init, nmi_pending, exception_pending, exc_errcode_valid;
	uint8_t exc_vector;
	uint32_t exc_errcode;
	uint64_t nextrip, exitintinfo;
	bool has[VM_REG_LAST], has_desc[VM_REG_LAST];
	uint64_t regs[VM_REG_LAST];
	struct seg_desc descs[VM_REG_LAST];
	uint8_t fpu[FXSAVE_SIZE];
	struct vlapic *vlapic;
};

struct snapshot {
	char file[VM_NAMELEN];
	uint64_t memsize, ram_pages;
	void **ram;
	struct saved_vcpu *vcpus[VM_MAXCPU];
};

static struct snapshot *snapshots[SNAPSHOTS];

static struct snapshot **
find(const char *file)
{
	for (int n = 0; n < SNAPSHOTS; n++)
		if (snapshots[n] != NULL && strncmp(snapshots[n]->file, file, VM_NAMELEN) == 0)
			return (&snapshots[n]);
	return (NULL);
}

static void
snapshot_free(struct snapshot *s)
{
	for (int n = 0; n < VM_MAXCPU; n++) {
		if (s->vcpus[n] == NULL)
			continue;
		if (s->vcpus[n]->vlapic != NULL)
			kfree(s->vcpus[n]->vlapic);
		kfree(s->vcpus[n]);
	}
	kfree(s);
}

/* What a setter takes: the translation's scratch fields are none of the guest's state. */
static bool
kept(int reg)
{
	return (reg != VM_REG_GUEST_ENTRY_INST_LENGTH && (reg < VM_REG_GUEST_PDPTE0 || reg > VM_REG_GUEST_PDPTE3));
}

static int
save_vcpu(struct vcpu *vcpu, struct saved_vcpu *to)
{
	to->used = true;
	to->parked = vcpu->parked;
	to->init = vcpu->init;
	to->nmi_pending = vcpu->nmi_pending;
	to->exception_pending = vcpu->exception_pending;
	to->exc_vector = vcpu->exc_vector;
	to->exc_errcode_valid = vcpu->exc_errcode_valid;
	to->exc_errcode = vcpu->exc_errcode;
	to->nextrip = vcpu->nextrip;
	to->exitintinfo = vcpu->exitintinfo;
	for (int reg = 0; reg < VM_REG_LAST; reg++) {
		to->has[reg] = kept(reg) && vm_get_register(vcpu, reg, &to->regs[reg]) == 0;
		to->has_desc[reg] = vm_get_desc(vcpu, reg, &to->descs[reg]) == 0;
	}
	to->regs[VM_REG_GUEST_RIP] = vcpu->nextrip;
	memcpy(to->fpu, vcpu->fpu, FXSAVE_SIZE);
	to->vlapic = vlapic_create(vcpu);
	if (to->vlapic == NULL)
		return (ENOMEM);
	vlapic_copy(to->vlapic, vcpu->vlapic);
	return (0);
}

/* Every thread of the process stands in vm_run(), between two entries. */
static void
stand_still(struct vm *vm)
{
	for (int n = 0; n < VM_MAXCPU; n++) {
		if (vm->vcpus[n] == NULL || (vm->active_cpus & 1u << n) == 0)
			continue;
		vcpu_freeze(vm->vcpus[n]);
		while (!vm->vcpus[n]->idle && !vm->vcpus[n]->waiting)
			sched_wait();
	}
}

/* Save the VM, end its process with status 0, and destroy it. 0, ENOENT without a process, EEXIST, ENOMEM. */
int
vm_save(struct vm *vm, const char *file)
{
	struct snapshot *s, **slot = NULL;
	int error = 0;

	if (bhyve_thread(vm, 0) == NULL)
		return (ENOENT);
	if (find(file) != NULL)
		return (EEXIST);
	for (int n = 0; n < SNAPSHOTS && slot == NULL; n++)
		if (snapshots[n] == NULL)
			slot = &snapshots[n];
	s = slot != NULL ? kzalloc(sizeof(*s)) : NULL;
	if (s == NULL)
		return (ENOMEM);
	snprintf(s->file, VM_NAMELEN, "%s", file);
	stand_still(vm);
	for (int n = 0; n < VM_MAXCPU && error == 0; n++) {
		if (vm->vcpus[n] == NULL || (vm->active_cpus & 1u << n) == 0)
			continue;
		s->vcpus[n] = kzalloc(sizeof(*s->vcpus[n]));
		error = s->vcpus[n] == NULL ? ENOMEM : save_vcpu(vm->vcpus[n], s->vcpus[n]);
	}
	if (error == 0)
		(void)vm_suspend(vm, VM_SUSPEND_RESET);
	for (int n = 0; n < VM_MAXCPU; n++)
		if (vm->vcpus[n] != NULL)
			vcpu_thaw(vm->vcpus[n]);
	if (error != 0) {
		snapshot_free(s);
		return (error);
	}
	bhyve_kill(vm);
	s->memsize = vm->memsize;
	s->ram = vm->ram;
	s->ram_pages = vm->ram_pages;
	vm->ram = NULL;
	vm->ram_pages = 0;
	*slot = s;
	return (vm_destroy(vm));
}

/* A new VM with the memory of a saved one, whose vCPUs vm_restore_vcpu() has to fill. 0, ENOENT, and as vm_create(). */
int
vm_restore(const char *name, const char *file)
{
	struct snapshot **slot = find(file);
	struct vm *vm;
	int error;

	if (slot == NULL)
		return (ENOENT);
	error = vm_create(name, &vm);
	if (error != 0)
		return (error);
	vm->memsize = (*slot)->memsize;
	vm->ram = (*slot)->ram;
	vm->ram_pages = (*slot)->ram_pages;
	vm->snapshot = *slot;
	*slot = NULL;
	return (0);
}

/* What a vCPU was when its VM was saved, over the reset state; 0 as well for a VM that never was. Error numbers. */
int
vm_restore_vcpu(struct vcpu *vcpu)
{
	struct snapshot *s = vcpu->vm->snapshot;
	struct saved_vcpu *from = s != NULL ? s->vcpus[vcpu->vcpuid] : NULL;
	int error = 0;

	if (from == NULL || !from->used)
		return (0);
	for (int reg = 0; reg < VM_REG_LAST; reg++) {
		bool lost = defect(DEFECT_CORE_RESTORE_LOSES_DR) && reg >= VM_REG_GUEST_DR0 && reg <= VM_REG_GUEST_DR3;

		if (from->has_desc[reg])
			error |= vm_set_desc(vcpu, reg, &from->descs[reg]);
		if (from->has[reg] && !lost)
			error |= vm_set_register(vcpu, reg, from->regs[reg]);
	}
	vcpu->nextrip = from->nextrip;
	vcpu->exitintinfo = from->exitintinfo;
	vcpu->nmi_pending = from->nmi_pending;
	vcpu->exception_pending = from->exception_pending;
	vcpu->exc_vector = from->exc_vector;
	vcpu->exc_errcode_valid = from->exc_errcode_valid;
	vcpu->exc_errcode = from->exc_errcode;
	vcpu->init = from->init;
	vcpu->parked = from->parked;
	memcpy(vcpu->fpu, from->fpu, FXSAVE_SIZE);
	vlapic_copy(vcpu->vlapic, from->vlapic);
	return (error);
}

/* All vCPUs of the VM are restored, or it goes away. */
void
vm_snapshot_done(struct vm *vm)
{
	if (vm->snapshot != NULL)
		snapshot_free(vm->snapshot);
	vm->snapshot = NULL;
}
