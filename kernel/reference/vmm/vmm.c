/* Virtual machines, vendor neutral: life cycle, memory, registers. Running them is vmm_run.c. */
#include "cpufunc.h"
#include "defects.h"
#include "vm.h"
#include "vmm_internal.h"

bool vmm_loaded;
const struct vmm_ops *vmm_ops;
struct vm vms[VM_MAX];

static char tunables[512];

bool
tunable_fetch(const char *name, uint64_t *value)
{
	size_t length = strlen(name);

	for (const char *line = tunables; *line != '\0';) {
		if (strncmp(line, name, length) == 0 && line[length] == '=') {
			*value = strtou64(line + length + 1);
			return (true);
		}
		while (*line != '\0' && *line++ != '\n')
			;
	}
	return (false);
}

static bool
is_intel(void)
{
	uint32_t regs[4];

	cpuid_count(0, 0, regs);
	return (regs[1] == 0x756e6547);			/* "Genu" */
}

/* One line of what the loader found in the module file or in the kernel environment. */
static int
take_line(const char *line, size_t length)
{
	char word[96];

	if (length >= sizeof(word))
		return (EINVAL);
	memcpy(word, line, length);
	word[length] = '\0';
	if (strncmp(word, "tunable ", 8) == 0) {
		size_t used = strlen(tunables);

		snprintf(tunables + used, sizeof(tunables) - used, "%s\n", word + 8);
		return (0);
	}
	if (strncmp(word, "defect ", 7) == 0)
		return (defect_enable(word + 7));
	return (length == 0 ? 0 : EINVAL);
}

/* 0, EEXIST, EINVAL or ENOENT for text that is not understood, ENXIO without VT-x or SVM. */
int
vmm_modload(const char *text)
{
	int error = 0;

	if (vmm_loaded)
		return (EEXIST);
	tunables[0] = '\0';
	defects_clear();
	while (*text != '\0' && error == 0) {
		size_t length = 0;

		while (text[length] != '\0' && text[length] != '\n')
			length++;
		error = take_line(text, length);
		text += length + (text[length] == '\n');
	}
	if (error == 0) {
		vmm_ops = is_intel() ? &vmm_ops_intel : &vmm_ops_amd;
		error = vmm_ops->modinit();
	}
	if (error != 0)
		defects_clear();
	vmm_loaded = error == 0;
	return (error);
}

int
vmm_modunload(void)
{
	if (!vmm_loaded)
		return (ENOENT);
	for (int n = 0; n < VM_MAX; n++)
		if (vms[n].used)
			return (EBUSY);
	(void)vmm_ops->modcleanup();
	vmm_loaded = false;
	defects_clear();
	return (0);
}

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
free_ram(struct vm *vm)
{
	if (vm->ram == NULL)
		return;
	for (uint64_t n = 0; n < vm->memsize / PAGE_SIZE; n++)
		if (vm->ram[n] != NULL)
			contigfree(vm->ram[n], 1);
	kfree(vm->ram);
	vm->ram = NULL;
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
	free_ram(vm);
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

int
vm_setmem(struct vm *vm, uint64_t bytes)
{
	if (vm->ram != NULL)
		return (vm->memsize == bytes ? 0 : EINVAL);
	vm->ram = kzalloc(bytes / PAGE_SIZE * sizeof(void *));
	if (vm->ram == NULL)
		return (ENOMEM);
	vm->memsize = bytes;
	return (0);
}

static void **
ram_slot(struct vm *vm, uint64_t gpa)
{
	return (gpa < vm->memsize ? &vm->ram[gpa / PAGE_SIZE] : NULL);
}

static void *
rom_page(struct vm *vm, uint64_t gpa)
{
	uint64_t start = 0x100000000ull - (uint64_t)vm->rom_pages * PAGE_SIZE;

	return (gpa >= start && gpa < 0x100000000ull ? vm->rom[(gpa - start) / PAGE_SIZE] : NULL);
}

void *
vm_gpa_page(struct vm *vm, uint64_t gpa, bool write)
{
	void **slot = ram_slot(vm, gpa);

	if (slot == NULL)
		return (write ? NULL : rom_page(vm, gpa));
	if (*slot == NULL) {
		mtx_lock_spin(&vm->mtx);
		if (*slot == NULL)
			*slot = contigalloc(1);
		mtx_unlock_spin(&vm->mtx);
	}
	return (*slot);
}

/* A nested page fault in memory: 0, EFAULT for a store to ROM, ENOMEM. */
int
vm_handle_paging(struct vcpu *vcpu)
{
	const struct vm_exit *vme = &vcpu->exitinfo;
	uint64_t gpa = trunc_page(vme->u.paging.gpa);
	struct vm *vm = vcpu->vm;
	int prot = VM_PROT_READ | VM_PROT_EXECUTE, error;
	void *page = rom_page(vm, gpa);

	if (page != NULL) {
		if ((vme->u.paging.fault_type & VM_PROT_WRITE) != 0)
			return (EFAULT);
	} else {
		page = vm_gpa_page(vm, gpa, true);
		prot |= VM_PROT_WRITE;
	}
	if (page == NULL)
		return (ENOMEM);
	mtx_lock_spin(&vm->mtx);
	error = pmap_enter(vm->pmap, gpa, vtophys(page), prot);
	mtx_unlock_spin(&vm->mtx);
	return (error);
}

bool
vm_mem_allocated(struct vcpu *vcpu, uint64_t gpa)
{
	return (ram_slot(vcpu->vm, gpa) != NULL || rom_page(vcpu->vm, gpa) != NULL);
}

int
vm_get_register(struct vcpu *vcpu, int reg, uint64_t *value)
{
	if (reg >= VM_REG_LAST)
		return (EINVAL);
	return (vmm_ops->getreg(vcpu->cookie, reg, value));
}

int
vm_set_register(struct vcpu *vcpu, int reg, uint64_t value)
{
	int error;

	if (reg < 0 || reg >= VM_REG_LAST)
		return (EINVAL);
	error = vmm_ops->setreg(vcpu->cookie, reg, value);
	if (error == 0 && reg == VM_REG_GUEST_RIP)
		vcpu->nextrip = value;
	return (error);
}

int
vm_get_desc(struct vcpu *vcpu, int reg, struct seg_desc *desc)
{
	return (vmm_ops->getdesc(vcpu->cookie, reg, desc));
}

int
vm_set_desc(struct vcpu *vcpu, int reg, const struct seg_desc *desc)
{
	return (vmm_ops->setdesc(vcpu->cookie, reg, desc));
}

int
vm_set_capability(struct vcpu *vcpu, int cap, int value)
{
	return (vmm_ops->setcap(vcpu->cookie, cap, value));
}

int
vm_get_capability(struct vcpu *vcpu, int cap, int *value)
{
	return (vmm_ops->getcap(vcpu->cookie, cap, value));
}

int
vmm_set_halt_pause(struct vcpu *vcpu, bool halt, bool pause)
{
	int error = vm_set_capability(vcpu, VM_CAP_HALT_EXIT, halt);

	return (error != 0 ? error : vm_set_capability(vcpu, VM_CAP_PAUSE_EXIT, pause));
}

static const struct {
	int reg;
	uint16_t selector;
	struct seg_desc desc;
} reset_segments[] = {
	{ VM_REG_GUEST_CS, 0xf000, { 0xffff0000, 0xffff, 0x93 } },
	{ VM_REG_GUEST_SS, 0, { 0, 0xffff, 0x93 } },
	{ VM_REG_GUEST_DS, 0, { 0, 0xffff, 0x93 } },
	{ VM_REG_GUEST_ES, 0, { 0, 0xffff, 0x93 } },
	{ VM_REG_GUEST_FS, 0, { 0, 0xffff, 0x93 } },
	{ VM_REG_GUEST_GS, 0, { 0, 0xffff, 0x93 } },
	{ VM_REG_GUEST_TR, 0, { 0, 0xffff, 0x8b } },
	{ VM_REG_GUEST_LDTR, 0, { 0, 0xffff, 0x82 } },
};

/* The architectural reset state, written register by register as FreeBSD's libvmmapi does it (SDM 9.1.1). */
int
vcpu_reset(struct vcpu *vcpu)
{
	struct seg_desc table = { 0, 0xffff, 0 };
	int error = 0;

	vlapic_reset(vcpu->vlapic);
	vcpu->exitintinfo = 0;
	vcpu->exception_pending = false;
	vcpu->nmi_pending = false;
	error |= vm_set_register(vcpu, VM_REG_GUEST_RFLAGS, 2);
	error |= vm_set_register(vcpu, VM_REG_GUEST_RIP, 0xfff0);
	error |= vm_set_register(vcpu, VM_REG_GUEST_CR0, 0x20);
	error |= vm_set_register(vcpu, VM_REG_GUEST_CR2, 0);
	error |= vm_set_register(vcpu, VM_REG_GUEST_CR3, 0);
	error |= vm_set_register(vcpu, VM_REG_GUEST_CR4, 0);
	error |= vm_set_register(vcpu, VM_REG_GUEST_EFER, 0);
	for (int reg = VM_REG_GUEST_RAX; reg <= VM_REG_GUEST_R15; reg++)
		error |= vm_set_register(vcpu, reg, reg == VM_REG_GUEST_RDX ? 0xf00 : 0);
	error |= vm_set_register(vcpu, VM_REG_GUEST_RSP, 0);
	for (unsigned n = 0; n < sizeof(reset_segments) / sizeof(reset_segments[0]); n++) {
		error |= vm_set_desc(vcpu, reset_segments[n].reg, &reset_segments[n].desc);
		error |= vm_set_register(vcpu, reset_segments[n].reg, reset_segments[n].selector);
	}
	error |= vm_set_desc(vcpu, VM_REG_GUEST_GDTR, &table);
	error |= vm_set_desc(vcpu, VM_REG_GUEST_IDTR, &table);
	error |= vm_set_register(vcpu, VM_REG_GUEST_DR6, DR6_RESET_VALUE);
	error |= vm_set_register(vcpu, VM_REG_GUEST_DR7, DR7_RESET_VALUE);
	error |= vm_set_register(vcpu, VM_REG_GUEST_INTR_SHADOW, 0);
	return (error);
}

static const struct { const char *text; enum vmm_stat_scope scope; } stat_texts[] = {
#define X(symbol, text, scope) { text, scope },
	VMM_STATS(X)
#undef X
};

/* The text bhyvectl prints, or NULL for a statistic that this vendor's module does not have. */
const char *
vmm_stat_name(enum vmm_stat stat)
{
	enum vmm_stat_scope scope = stat_texts[stat].scope;

	if (scope != STAT_ALL && (scope == STAT_AMD) != (vmm_ops == &vmm_ops_amd))
		return (NULL);
	return (stat_texts[stat].text);
}

/* What the kernel itself answers for; 0 or ENOENT. Values as decimal text, as sysctl prints them. */
int
vmm_sysctl(const char *name, char *out, size_t size)
{
	static const struct { const char *name; uint64_t value; } fixed[] = {
		{ "hw.vmm.halt_detection", 1 }, { "hw.vmm.trace_guest_exceptions", 0 }, { "hw.vmm.maxcpu", VM_MAXCPU },
	};
	uint64_t value;

	if (!vmm_loaded)
		return (ENOENT);
	if (vmm_ops->sysctl(name, out, size) == 0)
		return (0);
	for (unsigned n = 0; n < sizeof(fixed) / sizeof(fixed[0]); n++) {
		if (strcmp(name, fixed[n].name) == 0) {
			value = fixed[n].value;
			(void)tunable_fetch(name, &value);
			snprintf(out, size, "%lu", value);
			return (0);
		}
	}
	return (ENOENT);
}
