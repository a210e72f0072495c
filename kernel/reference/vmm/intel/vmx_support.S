/*
 * The world switch. Host registers that a function must preserve are kept in the context; the VMCS holds the rest of
 * the host, GS.base included, so that per-CPU data are valid from the first instruction behind an exit. While the
 * guest's registers are in the processor, %rsp points to the context.
 */
#include "vmx_assym.h"

	.macro	host_save ctx
	mov	%r15, VMXCTX_HOST_R15(\ctx)
	mov	%r14, VMXCTX_HOST_R14(\ctx)
	mov	%r13, VMXCTX_HOST_R13(\ctx)
	mov	%r12, VMXCTX_HOST_R12(\ctx)
	mov	%rbp, VMXCTX_HOST_RBP(\ctx)
	mov	%rsp, VMXCTX_HOST_RSP(\ctx)
	mov	%rbx, VMXCTX_HOST_RBX(\ctx)
	.endm

	.macro	host_restore
	mov	VMXCTX_HOST_R15(%rsp), %r15
	mov	VMXCTX_HOST_R14(%rsp), %r14
	mov	VMXCTX_HOST_R13(%rsp), %r13
	mov	VMXCTX_HOST_R12(%rsp), %r12
	mov	VMXCTX_HOST_RBP(%rsp), %rbp
	mov	VMXCTX_HOST_RBX(%rsp), %rbx
	mov	VMXCTX_HOST_RSP(%rsp), %rsp
	.endm

	/* Changes no flags. */
	.macro	guest_restore
	mov	VMXCTX_GUEST_RDI(%rsp), %rdi
	mov	VMXCTX_GUEST_RSI(%rsp), %rsi
	mov	VMXCTX_GUEST_RDX(%rsp), %rdx
	mov	VMXCTX_GUEST_RCX(%rsp), %rcx
	mov	VMXCTX_GUEST_R8(%rsp), %r8
	mov	VMXCTX_GUEST_R9(%rsp), %r9
	mov	VMXCTX_GUEST_RAX(%rsp), %rax
	mov	VMXCTX_GUEST_RBX(%rsp), %rbx
	mov	VMXCTX_GUEST_RBP(%rsp), %rbp
	mov	VMXCTX_GUEST_R10(%rsp), %r10
	mov	VMXCTX_GUEST_R11(%rsp), %r11
	mov	VMXCTX_GUEST_R12(%rsp), %r12
	mov	VMXCTX_GUEST_R13(%rsp), %r13
	mov	VMXCTX_GUEST_R14(%rsp), %r14
	mov	VMXCTX_GUEST_R15(%rsp), %r15
	.endm

	.macro	guest_save
	mov	%rdi, VMXCTX_GUEST_RDI(%rsp)
	mov	%rsi, VMXCTX_GUEST_RSI(%rsp)
	mov	%rdx, VMXCTX_GUEST_RDX(%rsp)
	mov	%rcx, VMXCTX_GUEST_RCX(%rsp)
	mov	%r8, VMXCTX_GUEST_R8(%rsp)
	mov	%r9, VMXCTX_GUEST_R9(%rsp)
	mov	%rax, VMXCTX_GUEST_RAX(%rsp)
	mov	%rbx, VMXCTX_GUEST_RBX(%rsp)
	mov	%rbp, VMXCTX_GUEST_RBP(%rsp)
	mov	%r10, VMXCTX_GUEST_R10(%rsp)
	mov	%r11, VMXCTX_GUEST_R11(%rsp)
	mov	%r12, VMXCTX_GUEST_R12(%rsp)
	mov	%r13, VMXCTX_GUEST_R13(%rsp)
	mov	%r14, VMXCTX_GUEST_R14(%rsp)
	mov	%r15, VMXCTX_GUEST_R15(%rsp)
	mov	%cr2, %rdi
	mov	%rdi, VMXCTX_GUEST_CR2(%rsp)
	.endm

	/* Nothing of the guest stays behind for speculation. */
	.macro	guest_forget
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%esi, %esi
	xor	%edi, %edi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	.endm

	.text
	.balign	16
	.globl	vmx_enter_guest
	.type	vmx_enter_guest, @function
/* int vmx_enter_guest(struct vmxctx *vmxctx [%rdi], struct vmx *vmx [%rsi], int launched [%edx]) */
vmx_enter_guest:
	push	%rbp
	mov	%rsp, %rbp

	host_save %rdi
	mov	%rdi, %rsp
	mov	VMXCTX_GUEST_CR2(%rsp), %rax
	mov	%rax, %cr2
	test	%edx, %edx
	guest_restore
	je	1f
	vmresume
	mov	$VMX_VMRESUME_ERROR, %eax
	jmp	2f
1:	vmlaunch
	mov	$VMX_VMLAUNCH_ERROR, %eax

	/* The instruction failed: there was no guest, %rsp still is the context. */
2:	jc	3f
	movl	$VM_FAIL_VALID, VMXCTX_INST_FAIL_STATUS(%rsp)
	jmp	4f
3:	movl	$VM_FAIL_INVALID, VMXCTX_INST_FAIL_STATUS(%rsp)
4:	host_restore
	guest_forget
	pop	%rbp
	ret

	.globl	vmx_exit_guest_flush_rsb
vmx_exit_guest_flush_rsb:
	guest_save
	host_restore

	/* Fill the return stack buffer: 32 entries, none of them the guest's. */
	mov	$16, %ecx
	mov	%rsp, %rax
1:	call	3f
2:	pause
	jmp	2b
3:	call	5f
4:	pause
	jmp	4b
5:	dec	%ecx
	jnz	1b
	mov	%rax, %rsp

	guest_forget
	mov	$VMX_GUEST_VMEXIT, %eax
	pop	%rbp
	ret

	.globl	vmx_exit_guest
vmx_exit_guest:
	guest_save
	host_restore
	guest_forget
	mov	$VMX_GUEST_VMEXIT, %eax
	pop	%rbp
	ret
	.size	vmx_enter_guest, . - vmx_enter_guest

	.balign	16
	.globl	vmx_call_isr
	.type	vmx_call_isr, @function
/* void vmx_call_isr(uintptr_t entry [%rdi]): the frame that the processor would push, on a stack aligned as it does */
vmx_call_isr:
	push	%rbp
	mov	%rsp, %rbp
	mov	%ss, %eax
	mov	%cs, %edx
	and	$~0xf, %rsp
	push	%rax
	push	%rbp
	pushfq
	push	%rdx
	cli
	call	*%rdi
	pop	%rbp
	ret
	.size	vmx_call_isr, . - vmx_call_isr

	.section .note.GNU-stack, "", @progbits
