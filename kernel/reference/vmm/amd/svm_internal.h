/*
 * What the files of the SVM module share among themselves.
 */
#ifndef SVM_INTERNAL_H
#define SVM_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "svm_softc.h"

#define XCR0_RESET	1ull		/* x87 only; what the host keeps, too */

struct pmap;
struct vlapic;
struct vm_eventinfo;
struct vm_exit;

/* svm_asid.c */
void	asid_init(uint32_t nasid, bool flush_by_asid);
uint32_t asid_count(void);
void	asid_update(struct svm_vcpu *vcpu, int cpu, long eptgen);

/* svm_msr.c */
void	svm_msr_init(void);
void	svm_msr_guest_enter(struct svm_vcpu *vcpu);
void	svm_msr_guest_exit(struct svm_vcpu *vcpu);
void	svm_msr_permissions(uint8_t *bitmap);
int	svm_rdmsr(struct svm_vcpu *vcpu, uint32_t num, uint64_t *result);
int	svm_wrmsr(struct svm_vcpu *vcpu, uint32_t num, uint64_t val);

/* svm_intr.c */
void	svm_inj_interrupts(struct svm_vcpu *vcpu, struct vlapic *vlapic);
void	svm_save_intinfo(struct svm_vcpu *vcpu);
void	svm_update_virqinfo(struct svm_vcpu *vcpu, struct vlapic *vlapic);
void	disable_intr_window_exiting(struct svm_vcpu *vcpu);
void	clear_nmi_blocking(struct svm_vcpu *vcpu);

/* svm_vmexit.c: true = handled here, run the guest again; false = *vme tells the caller of svm_run() what to do. */
bool	svm_vmexit(struct svm_vcpu *vcpu, struct vm_exit *vme);

/* svm_run.c */
int	svm_run(void *vcpui, uint64_t rip, struct pmap *pmap, struct vm_eventinfo *evinfo);

/* svm_reg.c */
int	svm_getreg(void *vcpui, int ident, uint64_t *val);
int	svm_setreg(void *vcpui, int ident, uint64_t val);

/* svm_steptrap.c */
void	svm_steptrap_install(void);
void	svm_steptrap_remove(void);

/* svm.c: the clean bits that may be set at all. */
uint32_t svm_clean_mask(void);

#endif
