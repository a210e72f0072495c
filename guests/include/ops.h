/*
 * Operations of a guest program and the records it sends. harness/guest/tables.py reads the numbers from here, so
 * they stand in one place only.
 */
#pragma once

#define PAYLOAD_MAGIC   0x31504756      /* "VGP1" */
#define PAYLOAD_VERSION 1

#define OP_END          0   /* end of the program, or of another processor's part of it */
#define OP_SET_DR       1   /* a=n, x=value that does not fault */
#define OP_SET_DR_SITE  2   /* a=n, b=mode, c=snippet, x=offset: DRn = address of the snippet's instruction + offset */
#define OP_SNAPSHOT     3   /* all debug registers and CR4 in one record */
#define OP_EXEC         4   /* b=mode, c=snippet, x y z = rdi rsi rdx; a=1: record the result (rax) */
#define OP_EXIT         5   /* a=exit kind, b=1: record it, x=count */
#define OP_POKE         6   /* a=size, x=address, y=value; not an access under test */
#define OP_PEEK         7   /* a=size, x=address: record the value */
#define OP_VALUE_AT     8   /* a=size, x=address: what exception records carry as `value` */
#define OP_LOOP         9   /* x=count; up to the matching OP_END_LOOP */
#define OP_END_LOOP     10
#define OP_SYNC         11  /* x=phase, a=SYNC_*: tell the host, wait for its go */
#define OP_SET_CR       12  /* a=register (0, 3, 4), x=mask, y=bits */
#define OP_HANDLER      13  /* c=flags of HANDLER_*, b=exit kind: what the exception handler does */
#define OP_CPUID        14  /* x=leaf, y=subleaf: record eax|ebx, ecx|edx */
#define OP_START_CPU    15  /* a=processor, b=1: by INIT and start-up IPI, x=its first operation, y=the next of ours */
#define OP_WAIT_CPU     16  /* a=processor: wait until it has ended its part */
#define OP_BARRIER      17  /* x=how many processors wait for one another */
#define OP_MAP          18  /* a=address space, b=MAP_*, x=linear, y=physical: one 2 MiB page */
#define OP_CONTROL      19  /* control registers in one record */
#define OP_TABLES       20  /* descriptor-table registers and selectors in one record */
#define OP_NOTE         21  /* x=value: a record that only marks the place */
#define OP_EXPECT_DR    22  /* a=n, x=expected, y=mask: a record only if DRn holds something else */
#define OP_COUNTED      23  /* what HANDLER_COUNT counted since the last time, in one record */
#define OP_USE_TABLES   24  /* a=0 the runtime's GDT and IDT, 1 the second IDT, 2 the second GDT */

#define EXIT_NONE           0
#define EXIT_CPUID          1
#define EXIT_OUT80          2   /* a port that bhyve's userland handles */
#define EXIT_IN21           3   /* a port that the kernel handles (interrupt controller mask) */
#define EXIT_HLT_TIMER      4   /* HLT with IF=1 until the local APIC timer fires */
#define EXIT_FIRST_TOUCH    5   /* first store to a page of RAM */
#define EXIT_LAPIC_MMIO     6   /* read of the local APIC's version register */
#define EXIT_RDMSR          7   /* IA32_APIC_BASE, handled in the kernel */
#define EXIT_WRMSR          8   /* the same value back */
#define EXIT_BUSY           9   /* a loop long enough for host timer interrupts; x = iterations / 1000 */
#define EXIT_PAUSE          10
#define EXIT_XSETBV         11
#define EXIT_CR_WRITE       12  /* CR0 with CD toggled, CR4 with PGE toggled */
#define EXIT_CR8            13  /* task priority to 1 and back to 0 */
#define EXIT_CR3            14  /* the same value again */
#define EXIT_KINDS          15

#define SYNC_CONSOLE        0   /* polls COM1 for one byte */
#define SYNC_MEMORY         1   /* spins on MAILBOX until the host wrote the phase there: no exit of its own */
#define SYNC_ANNOUNCE       2   /* tells the host and goes on */

#define MAP_PRESENT         1
#define MAP_WRITABLE        2
#define MAP_USER            4

#define HANDLER_KEEP_DR6    1   /* do not write the inactive value to DR6 */
#define HANDLER_NO_RF       2   /* do not set RF after an instruction breakpoint (the next one must come from it) */
#define HANDLER_EXIT_BEFORE 4   /* force the exit kind `b` before DR6 is read */
#define HANDLER_EXIT_AFTER  8   /* and after */
#define HANDLER_CLEAR_TF    16  /* end single-stepping at the first trap */
#define HANDLER_RETRY_GD    32  /* return to the MOV that met DR7.GD instead of skipping it */
#define HANDLER_DISARM      64  /* leave DR7 without enable bits */
#define HANDLER_REPAIR      128 /* page fault: make the page present and writable, then retry */
#define HANDLER_RCX         256 /* record rcx instead of rax */
#define HANDLER_COUNT       512 /* debug exceptions are only counted, see OP_COUNTED */

#define RECORD_RESET        1   /* rip dr0, value dr1, site dr2, next dr3, dr6, dr7, aux cr4, error edx */
#define RECORD_FEATURES     2   /* value leaf 7 ebx | ecx << 32, aux leaf 80000001 ecx | edx << 32,
				   dr6 leaf 1 ecx | edx << 32, site entry of vector 0, next entry of SYSCALL */
#define RECORD_EXCEPTION    3
#define RECORD_RESULT       4   /* value rax, site, next */
#define RECORD_SNAPSHOT     5   /* as RECORD_RESET */
#define RECORD_VALUE        6   /* value, aux address */
#define RECORD_CPUID        7   /* value eax | ebx << 32, aux ecx | edx << 32 */
#define RECORD_NOTE         8
#define RECORD_EXIT         9   /* value: exits done, aux: timer interrupts taken */
#define RECORD_OVERFLOW     10  /* more events than the record area takes: the program is wrong */
#define RECORD_CONTROL      11  /* rip cr0, value cr2, site cr3, next cr4, dr6 efer, aux cr8 */
#define RECORD_TABLES       12  /* rip gdtr base, value idtr base, site gdtr limit | idtr limit << 16 | tr << 32 |
				   ldtr << 48, next cs | ds << 16 | es << 32 | ss << 48, aux fs | gs << 16 */
#define RECORD_CPU          13  /* value 1: the processor `aux` runs its part, 0: it did not start, 2: it has ended */
#define RECORD_MISMATCH     14  /* value what DRn held, aux what it should have held, vector n */
#define RECORD_COUNTED      15  /* value how many, dr6 bits that any of them had, aux bits that all of them had,
				   rip of the last one */

#define MODE_LONG           0   /* processor mode, of operations and of interrupted code */
#define MODE_USER64         1
#define MODE_COMPAT         2   /* 32-bit code at CPL 3 in long mode */
#define MODE_REAL           3
#define MODE_PROT16         4   /* 16-bit code at CPL 0, long mode and paging off */
#define MODE_PROT32         5   /* 32-bit code at CPL 0, long mode and paging off */
#define MODE_VM86           6
#define MODE_COMPAT16       7   /* 16-bit code at CPL 3 in long mode */
#define MODE_VM86_IOPL0     8   /* virtual-8086 code that may not execute INT n */

#define TASK_TRAP           1   /* bits above the low half of a prot32 snippet's second argument: T bit in the state of */
#define TASK_GATE           2   /* the second task; #DB through a task gate: `error` EFLAGS of its handler, `aux` its link */
#define TASK_GATE_USER      4   /* #AC goes to code at CPL 3, on the stack that it finds */

#define END_PARK            0   /* no signal: park at once */
#define END_TESTDEV         1   /* bhyve pc-testdev: port 0xf4 */
#define END_HLT             2   /* cli; hlt on all processors */
#define END_POWEROFF        3   /* PM1a: port 0x404 */
#define END_BOCHS           4   /* "Shutdown" to port 0x8900 */
#define END_QEMU            5   /* isa-debug-exit at port 0xf4 */
#define END_REBOOT          6   /* port 0xcf9, hard reset */
#define END_KEEP_RECORDS    0x100 /* beside a method: the host reads the records in memory, they are not sent */
#define END_TESTDEV_VALUE   8   /* bhyve ends with status 17 */

#ifndef __ASSEMBLER__
#include <stdint.h>

struct payload_header {
	uint32_t magic;
	uint16_t version;
	uint16_t end_method;
	uint32_t nonce;
	uint32_t op_count;
	uint32_t payload_bytes;     /* header and operations */
	uint32_t crc32;             /* over the operations */
	uint32_t flags;
	uint32_t reserved;
};

struct op {
	uint16_t opcode;
	uint8_t a;
	uint8_t b;
	uint32_t c;
	uint64_t x;
	uint64_t y;
	uint64_t z;
};

struct record {
	uint32_t seq;
	uint8_t kind;
	uint8_t vector;
	uint16_t op;
	uint64_t rip;               /* linear: the base of the code segment is added */
	uint32_t rflags;
	uint32_t error;
	uint16_t cs;
	uint8_t mode;
	uint8_t cpu;
	uint32_t iteration;
	uint64_t dr6;
	uint64_t dr7;
	uint64_t value;
	uint64_t site;              /* address of the instruction under test */
	uint64_t next;              /* address of the one behind it */
	uint64_t aux;
};

_Static_assert(sizeof(struct payload_header) == 32, "payload header");
_Static_assert(sizeof(struct op) == 32, "operation");
_Static_assert(sizeof(struct record) == 80, "record");
#endif
