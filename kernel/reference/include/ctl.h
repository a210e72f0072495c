/*
 * The control channel: what bhyvectl, sysctl, kldload and the witnesses need, over COM1 of the emulated machine.
 *
 * Frame: a5 5a | u16 length | u32 crc32(body) | body. Body: u8 type | u8 code | u16 seq | payload. Little-endian. A
 * response's payload starts with an i32 errno. Names are NUL-padded char[32]. harness/emulated/ctl.py has the same
 * numbers; tests/emulated/test_ctl.py compares.
 */
#ifndef CTL_H
#define CTL_H

#define CTL_VERSION		1
#define CTL_TYPE_REQUEST	1
#define CTL_TYPE_RESPONSE	2
#define CTL_TYPE_EVENT		3

#define CTL_HELLO		0x01	/* -> u32 version, vendor (1 Intel, 2 AMD), ncpu; char vendor[12]; u32 signature;
					 * char brand[48]; u32 8000000a edx, nasid; u64 tsc */
#define CTL_MODLOAD		0x02	/* text lines `tunable NAME=VALUE`, `defect ID` */
#define CTL_MODUNLOAD		0x03
#define CTL_SYSCTL		0x04	/* name -> text */
#define CTL_VM_CREATE		0x10	/* name */
#define CTL_VM_DESTROY		0x11
#define CTL_VM_LIST		0x12	/* -> text lines */
#define CTL_VM_SETMEM		0x13	/* name, u64 bytes */
#define CTL_VM_READ		0x14	/* name, u64 gpa, u32 length -> bytes */
#define CTL_VM_WRITE		0x15	/* name, u64 gpa, bytes */
#define CTL_ROM_PAGE		0x16	/* u64 key, 4096 bytes run-length encoded: 0, count, byte */
#define CTL_ROM_MAP		0x17	/* name, u64 keys[], lowest page first; ENOENT + the first missing key */
#define CTL_VM_REINIT		0x18	/* name: as new, keeps name and memory size */
#define CTL_VM_SAVE		0x19	/* name, char[32] under which; the process ends with status 0, the VM is gone */
#define CTL_VM_RESTORE		0x1a	/* name of a new VM, char[32]; its next CTL_RUN goes on where it was saved */
#define CTL_RUN			0x20	/* name, u32 ncpu, u32 flags, i32 pin[ncpu] */
#define CTL_KILL		0x21	/* name */
#define CTL_SUSPEND		0x22	/* name, u32 how */
#define CTL_CONSOLE_IN		0x23	/* name, bytes */
#define CTL_PIN			0x24	/* name, u32 vcpu, u32 mask */
#define CTL_STOP		0x25	/* name, u32 on */
#define CTL_INJECT_NMI		0x26	/* name, u32 vcpu */
#define CTL_DEBUG		0x27	/* name, u32 vcpu, u32 what (CTL_DEBUG_SUSPEND ... _REFLECT), for a bhyve with a stub */
#define CTL_GET_REG		0x30	/* name, u32 vcpu, i32 register -> u64 */
#define CTL_SET_REG		0x31	/* name, u32 vcpu, i32 register, u64 */
#define CTL_GET_DESC		0x32	/* name, u32 vcpu, i32 register -> u64 base, u32 limit, u32 access */
#define CTL_SET_DESC		0x33
#define CTL_GET_STATS		0x34	/* name, u32 vcpu -> text lines `NAME\tVALUE` */
#define CTL_GET_CAP		0x35	/* name, u32 vcpu, i32 capability -> i32 */
#define CTL_SET_CAP		0x36
#define CTL_GET_STATE		0x37	/* name, u32 vcpu -> u32 exitcode, i32 host cpu, u32 running, u64 exits */
#define CTL_THREAD		0x38	/* name, u32 vcpu -> u64 identity of its thread, as probes have it */
#define CTL_MSR_READ		0x40	/* u32 cpu, u32 msr -> u64 */
#define CTL_MSR_WRITE		0x41
#define CTL_CPUID		0x42	/* u32 cpu, u32 leaf, u32 subleaf -> u32[4] */
#define CTL_WITNESS_PLANT	0x50	/* u32 cpu, u64 dr0-3, dr6, dr7, debugctl -> the same, read back */
#define CTL_WITNESS_READ	0x51	/* u32 cpu -> u64 dr0-3, dr6, dr7, debugctl */
#define CTL_WITNESS_TOUCH	0x52	/* u32 cpu, u32 count -> u64 hits */
#define CTL_WITNESS_STEP	0x53	/* u32 cpu, u32 on -> u64 steps, tf_lost, entries */
#define CTL_SETDBREGS		0x54	/* name, u32 vcpu, u64 dr0-3, dr6, dr7 */
#define CTL_GETDBREGS		0x55	/* name, u32 vcpu -> u64 dr0-3, dr6, dr7 */
#define CTL_SENTINEL_START	0x56	/* u32 id, u32 cpu, u64 dr0-3, dr6, dr7, u32 touches a slice,
					 * u64 FS base, GS base -> u64 address */
#define CTL_SENTINEL_STOP	0x57	/* u32 id -> u64 touches, hits, foreign, dr0-3, dr6, dr7, FS and GS base */
#define CTL_WITNESS_ADDRESS	0x58	/* -> u64 */
#define CTL_WITNESS_TABLES	0x59	/* u32 cpu -> u64 base and limit of GDTR, of IDTR, LDTR, TR, base and limit of TR */
#define CTL_GETBASES		0x5a	/* name, u32 vcpu -> u64 FS base, GS base of user mode */
#define CTL_FBT_LIST		0x60	/* u64 function, u32 size -> i32 offset of the entry probe (-1: none), u32 returns,
					 * u32 offset[returns] */
#define CTL_FBT_ENABLE		0x61	/* u32 id (0-15), u64 function, u32 size, u32 what (1 entry, 2 return), and if not
					 * everything is wanted struct fbt_wanted (fbt.h) up to its last value ->
					 * u32 probes; EBUSY, ENOENT: no such probe */
#define CTL_FBT_READ		0x62	/* u32 at most -> records (struct fbt_record of fbt.h), each is handed out once */
#define CTL_FBT_DISABLE		0x63	/* u32 id -> u64 entries, returns, dropped records */
#define CTL_FBT_COUNTS		0x64	/* the same, without disabling */
#define CTL_MISBEHAVE		0x70	/* u32 kind: 1 panic, 2 hang, 3 triple fault, 4 CPU 1 hangs */

#define CTL_EV_CONSOLE_OUT	0x80	/* name, bytes */
#define CTL_EV_EXITED		0x81	/* name, i32 status, text: what bhyve wrote to stderr */
#define CTL_EV_KLOG		0x82	/* text */
#define CTL_EV_PANIC		0x83	/* text */
#define CTL_EV_DEBUG		0x84	/* name, u32 vcpu, u32 why (CTL_DEBUG_SUSPENDED ... _STEPPED), u64 rip */

/* CTL_DEBUG: stop a vCPU; of one that stands: let it run, or one instruction, or deliver the INT3 to the guest. */
#define CTL_DEBUG_SUSPEND	0
#define CTL_DEBUG_RESUME	1
#define CTL_DEBUG_STEP		2
#define CTL_DEBUG_REFLECT	3

/* CTL_EV_DEBUG: why it stands. */
#define CTL_DEBUG_SUSPENDED	0
#define CTL_DEBUG_BREAKPOINT	1
#define CTL_DEBUG_STEPPED	2

#define RUN_HLT_EXIT		1	/* -H */
#define RUN_PAUSE_EXIT		2	/* -P */
#define RUN_IGNORE_MSR		4	/* -w */
#define RUN_STRICT_IO		8	/* -e */
#define RUN_TESTDEV		32	/* -l pc-testdev */
#define RUN_COM1		64	/* -s 31,lpc -l com1 */
#define RUN_GDB			128	/* -G */

#endif
