/*
 * The seeded defects that are not a single condition in the code they spoil: what they keep, and where they act.
 * Without a defect every function here does nothing.
 */
#ifndef SVM_DEFECTS_H
#define SVM_DEFECTS_H

#include <stdbool.h>
#include <stdint.h>

struct svm_vcpu;

/* At module load: choose the deviation of svm_launch(). */
void	 svm_defects_init(void);

/* The clean bits that a change really clears. */
uint32_t svm_defective_dirty(uint32_t dirtybits);

/* True when a defect answered the register access of the host, so that the guest's register is not touched. */
bool	 svm_defective_getreg(struct svm_vcpu *vcpu, int ident, uint64_t *val);
bool	 svm_defective_setreg(struct svm_vcpu *vcpu, int ident, uint64_t val);

/* Around the life of a vCPU: a context that is handed on without being cleared. */
void	 svm_defective_vcpu_init(struct svm_vcpu *vcpu);
void	 svm_defective_vcpu_cleanup(const struct svm_vcpu *vcpu);

/* Before VMRUN: guest state that the hypervisor had no business to change. */
void	 svm_defective_entry(struct svm_vcpu *vcpu);
void	svm_defective_exit(struct svm_vcpu *vcpu);

#endif
