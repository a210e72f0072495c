/*
 * The control channel on COM1. Frame: A5 5A | u16 body_len | u32 crc32(body) | body; body: u8 type | u8 code | u16 seq |
 * payload. Little-endian. Names are NUL-padded char[32]. The payload of a response starts with i32 errno.
 */
#ifndef CTL_H
#define CTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CTL_SYNC0		0xa5
#define CTL_SYNC1		0x5a
#define CTL_HEADER		8
#define CTL_BODY_HEADER		4
#define CTL_BODY_MAX		8192
#define CTL_VERSION		1
#define CTL_NAMELEN		32

enum ctl_type { CTL_REQUEST = 1, CTL_RESPONSE = 2, CTL_EVENT = 3 };

enum ctl_code {
	CTL_HELLO = 0x01, CTL_MODLOAD, CTL_MODUNLOAD, CTL_SYSCTL,
	CTL_VM_CREATE = 0x10, CTL_VM_DESTROY, CTL_VM_LIST, CTL_VM_SETMEM, CTL_VM_READ, CTL_VM_WRITE, CTL_ROM_PAGE,
	CTL_ROM_MAP,
	CTL_RUN = 0x20, CTL_KILL, CTL_SUSPEND, CTL_CONSOLE_IN, CTL_PIN, CTL_STOP, CTL_INJECT_NMI,
	CTL_GET_REG = 0x30, CTL_SET_REG, CTL_GET_DESC, CTL_SET_DESC, CTL_GET_STATS, CTL_GET_CAP, CTL_SET_CAP,
	CTL_GET_STATE,
	CTL_MSR_READ = 0x40, CTL_MSR_WRITE, CTL_CPUID,
	CTL_WITNESS_PLANT = 0x50, CTL_WITNESS_READ, CTL_WITNESS_TOUCH, CTL_WITNESS_STEP, CTL_SETDBREGS, CTL_GETDBREGS,
	CTL_SENTINEL_START, CTL_SENTINEL_STOP,
	CTL_FBT_LIST = 0x60, CTL_FBT_ENABLE, CTL_FBT_READ, CTL_FBT_DISABLE,
	CTL_MISBEHAVE = 0x70
};

enum ctl_event { CTL_EV_CONSOLE = 0x80, CTL_EV_EXITED, CTL_EV_KLOG, CTL_EV_PANIC };

/* flags of CTL_RUN */
#define RUN_HLT_EXIT		0x01	/* -H */
#define RUN_PAUSE_EXIT		0x02	/* -P */
#define RUN_IGNORE_MSRS		0x04	/* -w */
#define RUN_STRICT_IO		0x08	/* -e */
#define RUN_X2APIC		0x10	/* -x */
#define RUN_PC_TESTDEV		0x20	/* -l pc-testdev */
#define RUN_COM1		0x40	/* -l com1,stdio */

#define MISBEHAVE_PANIC		1
#define MISBEHAVE_HANG		2
#define MISBEHAVE_TRIPLE_FAULT	3

#endif
