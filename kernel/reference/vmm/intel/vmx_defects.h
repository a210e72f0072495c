/*
 * The seeded defects that are not a single condition in the code they spoil: what they keep, and where they act.
 * Without a defect every function here does nothing.
 */
#ifndef VMX_DEFECTS_H
#define VMX_DEFECTS_H

#include <stdbool.h>
#include <stdint.h>

struct vmx_vcpu;

/* At module load: choose the deviation of vmx_enter_guest(). */
void	 vmx_defects_init(void);

/* Exceptions that are caught although nobody asked for that: what is lost in reflecting them is the defect. */
uint32_t vmx_defective_exceptions(void);

/* True when a defect answered the register access of the host, so that the guest's register is not touched. */
bool	 vmx_defective_getreg(struct vmx_vcpu *vcpu, int ident, uint64_t *val);
bool	 vmx_defective_setreg(struct vmx_vcpu *vcpu, int ident, uint64_t val);

/* Around the life of a vCPU: a context that is handed on without being cleared. */
void	 vmx_defective_vcpu_init(struct vmx_vcpu *vcpu);
void	 vmx_defective_vcpu_cleanup(const struct vmx_vcpu *vcpu);

/* Before VM entry, and behind a VM exit for `reason`: guest state that the hypervisor had no business to change. */
void	 vmx_defective_entry(struct vmx_vcpu *vcpu);
void	 vmx_defective_exit(struct vmx_vcpu *vcpu, uint32_t reason);

#endif
