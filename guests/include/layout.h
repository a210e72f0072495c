/*
 * Where things are in a guest. RAM addresses are guest-physical and, in every mode of the runtime, linear.
 *
 * Kept clear: 0xE0000-0xFFFFF, where bhyve puts its MP table, SMBIOS and ACPI tables.
 */
#pragma once

#define ROM_BASE            0xFFFF0000  /* 64 KiB, ending at 4 GiB */
#define ROM_TEXT            0xFFFF4000  /* the runtime; the payload (header and operations) stands before it */
#define PAYLOAD_SIZE        0x4000

#define RESET_STATE         0x00000600  /* what the registers held at the first instruction */
#define LOW_STACK           0x00007000  /* grows down; real mode and the second processor's start */
#define LOW_CODE            0x00008000  /* 16-bit code: copied here, as real mode cannot reach the ROM */
#define RAM_IMAGE           0x00010000  /* code and data of the runtime, copied from ROM */
#define RAM_IMAGE_END       0x00030000
#define PAGE_TABLES         0x00030000  /* PML4, PDPT, four page directories: 0 to 4 GiB, identity */
#define STACKS              0x00040000
#define STACK_SIZE          0x00004000
#define RECORDS             0x00060000  /* up to RECORDS_END, 80 bytes each */
#define RECORDS_END         0x000A0000
#define DATA_AREA           0x00100000  /* watched variables */
#define FIRST_TOUCH         0x00400000  /* pages that nothing touches but the operation meant to be first */
#define FIRST_TOUCH_END     0x00800000
#define MAILBOX             0x000FF000  /* not used as RAM by bhyve's tables: phase and go words for the host */
