/* Offsets of struct legacy (legacy.c), as absolute addresses that every mode reaches. */
#pragma once

#define MODE        (LEGACY + 0)
#define CODE        (LEGACY + 4)
#define EDI         (LEGACY + 8)
#define ESI         (LEGACY + 12)
#define EDX         (LEGACY + 16)
#define EAX         (LEGACY + 20)
#define FLAGS       (LEGACY + 24)
#define VALUE_AT    (LEGACY + 28)
#define SITE        (LEGACY + 32)
#define NEXT        (LEGACY + 36)
#define DATA        (LEGACY + 40)
#define COUNT       (LEGACY + 44)
#define ABORT       (LEGACY + 48)
#define BASE        (LEGACY + 52)
#define RSP         (LEGACY + 64)
/* Of struct tss32. */
#define TASK_EIP    32
#define TASK_EFLAGS 36
#define TASK_CS     76
#define TASK_SIZE   140
/* The interrupted code, while its event is noted. */
#define F_VECTOR    (LEGACY + 80)
#define F_ERROR     (LEGACY + 84)
#define F_EIP       (LEGACY + 88)
#define F_CS        (LEGACY + 92)
#define F_EFLAGS    (LEGACY + 96)
#define F_EAX       (LEGACY + 100)
