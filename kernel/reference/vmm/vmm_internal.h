/* Among the files of the vendor-neutral half. */
#ifndef VMM_INTERNAL_H
#define VMM_INTERNAL_H

#include "vm.h"

extern struct vm vms[VM_MAX];

void	 vm_free_ram(struct vm *vm);
/* A byte of guest memory by its linear address, or NULL (vmm_emul.c). */
uint8_t	*vm_linear_byte(struct vcpu *vcpu, const struct vm_guest_paging *paging, uint64_t gla, bool write);
int	 vm_handle_paging(struct vcpu *vcpu);

#endif
