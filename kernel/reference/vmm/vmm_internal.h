/* Between vmm.c and vmm_run.c. */
#ifndef VMM_INTERNAL_H
#define VMM_INTERNAL_H

#include "vm.h"

extern const struct vmm_ops *vmm_ops;

int	 vm_handle_paging(struct vcpu *vcpu);

#endif
