/* Among the files of the vendor-neutral half. */
#ifndef VMM_INTERNAL_H
#define VMM_INTERNAL_H

#include "vm.h"

extern struct vm vms[VM_MAX];

void	 vm_free_ram(struct vm *vm);
int	 vm_handle_paging(struct vcpu *vcpu);

#endif
