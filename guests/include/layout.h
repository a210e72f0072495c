/*
 * Where things are in a guest. RAM addresses are guest-physical and, unless an operation maps them otherwise, linear.
 *
 * Kept clear: 0xE0000-0xFFFFF, where bhyve puts its MP table, SMBIOS and ACPI tables.
 */
#pragma once

#define ROM_BASE            0xFFFF0000  /* 64 KiB, ending at 4 GiB */
#define ROM_TEXT            0xFFFF4000  /* the runtime; the payload (header and operations) stands before it */
#define PAYLOAD_SIZE        0x4000

#define RESET_STATE         0x00000600  /* what the registers held at the first instruction of the boot processor */
#define AP_STATE            0x00000640  /* the same for the processor that was started last */
#define MAILBOX             0x00000800  /* a word that the host writes to let a silent `sync` go on */
#define RECORDS_LENGTH      0x00000820  /* 16 bytes: in how many blocks of RECORDS_BLOCK the records are, decimal, then newlines */
#define LEGACY              0x00001000  /* arguments and events of code outside long mode, struct legacy */
#define LEGACY_EVENTS       0x00001100
#define LEGACY_EVENTS_MAX   92
#define GDT_SECOND          0x00002800  /* as the GDT, but selector 0x58 has a limit of 0xFFF */
#define IDT_SECOND          0x00003000  /* as the IDT, but INT3 arrives as vector 0x43 */
#define LOW_DATA            0x00004000  /* watched variables that 16-bit code reaches */
#define LOW_DATA_END        0x00006000
#define LOW_STACK           0x00007000  /* grows down; modes outside long mode, and the start of processors */
#define VM86_STACK          0x00006800
#define LOW_CODE            0x00008000  /* 16-bit code: copied here, as real mode cannot reach the ROM */
#define RAM_IMAGE           0x00010000  /* code and data of the runtime, copied from ROM */
#define RAM_IMAGE_END       0x00030000
#define PAGE_TABLES         0x00030000  /* PML4, PDPT, four page directories: 0 to 4 GiB, identity */
#define PAGE_TABLES_SECOND  0x00038000  /* the same again: a second address space for programs */
#define RECORDS_BLOCK       0x1000
#define RECORDS             0x00040000  /* up to RECORDS_END, 80 bytes each */
#define RECORDS_END         0x000A0000
#define DATA_AREA           0x00100000  /* watched variables */
#define DATA_AREA_END       0x00200000
#define STACKS              0x00200000  /* for each processor: main, user, exceptions, double fault */
#define STACK_SIZE          0x00004000
#define CPU_STACKS          0x00010000
#define FIRST_TOUCH         0x00400000  /* pages that nothing touches but the operation meant to be first */
#define FIRST_TOUCH_SHARE   0x00080000  /* each processor has its own part */
#define FIRST_TOUCH_END     0x00800000

#define MAX_CPUS            8

#define SELECTOR_CODE32     0x08
#define SELECTOR_DATA       0x10
#define SELECTOR_CODE64     0x18
#define SELECTOR_USER32     0x23        /* in the order that SYSRET wants */
#define SELECTOR_USER_DATA  0x2B
#define SELECTOR_USER64     0x33
#define SELECTOR_CODE16     0x38        /* base LOW_CODE */
#define SELECTOR_BASED      0x40        /* data, base chosen by the operation */
#define SELECTOR_USER16     0x4B        /* base LOW_CODE */
#define SELECTOR_USER_BASED 0x53
#define SELECTOR_DATA64K    0x58        /* data, base 0, limit 64 KiB: on the way to real mode */
#define SELECTOR_TSS32      0x60
#define SELECTOR_TASK       0x68        /* a second 32-bit task */
#define SELECTOR_SYSCALL    0x70        /* 64-bit code, then data, then what SYSEXIT wants */
#define SELECTOR_SYSEXIT64  0x93
#define SELECTOR_TSS64      0xA0        /* one for each processor, 16 bytes apart */
