/* Virtual machines, vendor neutral: how they come and go. Running them is vmm_run.c. */
#include "vmm_internal.h"

struct vm vms[VM_MAX];

struct vm *
vm_lookup(const char *name)
{
	for (int n = 0; n < VM_MAX; n++)
		if (vms[n].used && strncmp(vms[n].name, name, VM_NAMELEN) == 0)
			return (&vms[n]);
	return (NULL);
}

void
vm_list(char *out, size_t size)
{
	size_t used = 0;

	out[0] = '\0';
	for (int n = 0; n < VM_MAX; n++)
		if (vms[n].used && used < size)
			used += (size_t)snprintf(out + used, size - used, "%s\n", vms[n].name);
}

static void
vcpu_free(struct vcpu *vcpu)
{
	if (vcpu->cookie != NULL)
		vmm_ops->vcpu_cleanup(vcpu->cookie);
	if (vcpu->vlapic != NULL)
		kfree(vcpu->vlapic);
	if (vcpu->fpu != NULL)
		contigfree(vcpu->fpu, 1);
	kfree(vcpu);
}

static void
vm_teardown(struct vm *vm)
{
	vm_snapshot_done(vm);
	/* The first vCPU last: its control block is the next one to be handed out, to the first vCPU of the next VM. */
	for (int n = VM_MAXCPU - 1; n >= 0; n--) {
		if (vm->vcpus[n] != NULL)
			vcpu_free(vm->vcpus[n]);
		vm->vcpus[n] = NULL;
	}
	if (vm->cookie != NULL)
		vmm_ops->cleanup(vm->cookie);
	vm->cookie = NULL;
	if (vm->pmap != NULL)
		pmap_destroy(vm->pmap);
	vm->pmap = NULL;
	vm_free_ram(vm);
	for (unsigned n = 0; n < vm->rom_pages; n++)
		contigfree(vm->rom[n], 1);
	vm->rom_pages = 0;
}

/* FXSAVE image after FNINIT: control word 37fh, MXCSR 1f80h. */
static void
fpu_reset(uint8_t *fpu)
{
	memset(fpu, 0, 512);
	fpu[0] = 0x7f;
	fpu[1] = 0x03;
	fpu[24] = 0x80;
	fpu[25] = 0x1f;
}

struct vcpu *
vm_vcpu(struct vm *vm, uint32_t vcpuid)
{
	struct vcpu *vcpu;

	if (vcpuid >= VM_MAXCPU)
		return (NULL);
	if (vm->vcpus[vcpuid] != NULL)
		return (vm->vcpus[vcpuid]);
	vcpu = kzalloc(sizeof(*vcpu));
	if (vcpu == NULL)
		return (NULL);
	vcpu->vm = vm;
	vcpu->vcpuid = (int)vcpuid;
	vcpu->hostcpu = -1;
	vcpu->parked = vcpuid != 0;
	vcpu->vlapic = vlapic_create(vcpu);
	vcpu->fpu = contigalloc(1);
	vcpu->cookie = vmm_ops->vcpu_init(vm->cookie, vcpu, (int)vcpuid);
	if (vcpu->vlapic == NULL || vcpu->fpu == NULL || vcpu->cookie == NULL) {
		vcpu_free(vcpu);
		return (NULL);
	}
	fpu_reset(vcpu->fpu);
	vm->vcpus[vcpuid] = vcpu;
	return (vcpu);
}

/* The part of a VM that a re-initialisation makes anew; 0 or ENOMEM. */
static int
vm_build(struct vm *vm)
{
	vm->suspend = VM_SUSPEND_NONE;
	vm->active_cpus = vm->halted_cpus = 0;
	vm->pmap = pmap_create(vmm_ops == &vmm_ops_intel);
	vm->cookie = vm->pmap != NULL ? vmm_ops->init(vm, vm->pmap) : NULL;
	return (vm->cookie != NULL && vm_vcpu(vm, 0) != NULL ? 0 : ENOMEM);
}

/* 0, ENXIO without the module, EEXIST, EINVAL for a bad name, ENOMEM. */
int
vm_create(const char *name, struct vm **out)
{
	struct vm *vm = NULL;

	if (!vmm_loaded)
		return (ENXIO);
	if (name[0] == '\0')
		return (EINVAL);
	if (vm_lookup(name) != NULL)
		return (EEXIST);
	for (int n = 0; n < VM_MAX && vm == NULL; n++)
		if (!vms[n].used)
			vm = &vms[n];
	if (vm == NULL)
		return (ENOMEM);
	memset(vm, 0, sizeof(*vm));
	snprintf(vm->name, VM_NAMELEN, "%s", name);
	if (vm_build(vm) != 0) {
		vm_teardown(vm);
		return (ENOMEM);
	}
	vm->used = true;
	if (out != NULL)
		*out = vm;
	return (0);
}

int
vm_destroy(struct vm *vm)
{
	bhyve_vm_gone(vm);
	vm_teardown(vm);
	vm->used = false;
	return (0);
}

/*
 * The contexts as after vm_create(), on the same memory: what FreeBSD does for a bhyve that finds its VM already there.
 * 0 or ENOMEM.
 */
int
vm_renew(struct vm *vm)
{
	for (int n = VM_MAXCPU - 1; n >= 0; n--) {
		if (vm->vcpus[n] != NULL)
			vcpu_free(vm->vcpus[n]);
		vm->vcpus[n] = NULL;
	}
	vmm_ops->cleanup(vm->cookie);
	vm->suspend = VM_SUSPEND_NONE;
	vm->active_cpus = vm->halted_cpus = 0;
	vm->cookie = vmm_ops->init(vm, vm->pmap);
	return (vm->cookie != NULL && vm_vcpu(vm, 0) != NULL ? 0 : ENOMEM);
}

/* As after vm_create(), but the name and the size of the memory stay. */
int
vm_reinit(struct vm *vm)
{
	uint64_t memsize = vm->memsize;
	int error;

	vm_teardown(vm);
	vm->memsize = 0;
	vm->used_before = false;
	error = vm_build(vm);
	return (error != 0 ? error : memsize != 0 ? vm_setmem(vm, memsize) : 0);
}
