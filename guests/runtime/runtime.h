/* What the parts of the runtime know of each other. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "layout.h"
#include "ops.h"

#define DR6_INACTIVE    0xFFFF0FF0UL
#define DR6_BD          (1UL << 13)
#define DR7_INACTIVE    0x400UL
#define RFLAGS_TF       (1UL << 8)
#define RFLAGS_RF       (1UL << 16)

#define VECTOR_DB       1
#define VECTOR_BP       3
#define VECTOR_PF       14
#define VECTOR_TIMER    0x40
#define VECTOR_SPURIOUS 0xFF
#define VECTOR_LEAVE    0x80

struct frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error;
	uint64_t rip, cs, rflags, rsp, ss;
};

struct snippet {
	uint64_t code, site, next;
};

/* What one processor is doing; exceptions are recorded against it. */
struct context {
	uint32_t op;
	uint32_t iteration;
	uint64_t site, next;
	uint64_t value_at;
	uint8_t value_size;
	uint8_t handler_flags;
	uint8_t handler_exit;
	uint8_t cpu;
	volatile uint64_t ticks;
	uint64_t first_touch;
};

static inline void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outw(uint16_t port, uint16_t value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outl(uint16_t port, uint32_t value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }
static inline uint8_t inb(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return (value);
}
static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return ((uint64_t)high << 32 | low);
}
static inline void wrmsr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}
static inline void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	__asm__ volatile("cpuid" : "=a"(regs[0]), "=b"(regs[1]), "=c"(regs[2]), "=d"(regs[3]) : "0"(leaf), "2"(subleaf));
}
/* bhyve emulates accesses to the local APIC's page; these two forms are what every release can decode. */
static inline void mmio_write(uint64_t address, uint32_t value)
{
	__asm__ volatile("movl %%eax, (%%rbx)" : : "a"(value), "b"(address) : "memory");
}
static inline uint32_t mmio_read(uint64_t address)
{
	uint32_t value;

	__asm__ volatile("movl (%%rbx), %%eax" : "=a"(value) : "b"(address) : "memory");
	return (value);
}
#define READ_DR(n) ({ uint64_t v_; __asm__ volatile("movq %%dr" #n ", %0" : "=r"(v_)); v_; })
#define WRITE_DR(n, v) __asm__ volatile("movq %0, %%dr" #n : : "r"((uint64_t)(v)) : "memory")

extern const struct snippet snippets_start[], snippets_end[];
extern char isr_table[];

uint64_t call_snippet(uint64_t rdi, uint64_t rsi, uint64_t rdx, uint64_t code);
uint64_t call_snippet_user(uint64_t rdi, uint64_t rsi, uint64_t rdx, uint64_t code, uint64_t user_stack);
void leave_user(uint64_t rax) __attribute__((noreturn));

/* tables.c */
void load_tables(unsigned cpu);
/* exception.c */
extern struct context contexts[2];
struct context *current(void);
/* exits.c */
void apic_init(void);
void force_exits(struct context *ctx, unsigned kind, uint64_t count);
/* records.c */
struct record *record_new(struct context *ctx, unsigned kind);
void record_debug_registers(struct record *record);
uint32_t crc32(uint32_t crc, const void *data, size_t length);
void uart_init(void);
void send_banner(uint32_t nonce);
void send_phase(uint32_t nonce, uint32_t phase);
void send_records(uint32_t nonce);
uint8_t uart_receive(void);
/* interpreter.c */
void run_ops(struct context *ctx, const struct payload_header *header, uint32_t first);
/* end.c */
void end_of_run(unsigned method) __attribute__((noreturn));
