/* What the parts of the runtime know of each other. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"
#include "ops.h"

#define DR6_INACTIVE    0xFFFF0FF0UL
#define DR6_BD          (1UL << 13)
#define DR7_INACTIVE    0x400UL
#define RFLAGS_TF       (1UL << 8)
#define RFLAGS_IF       (1UL << 9)
#define RFLAGS_RF       (1UL << 16)

#define VECTOR_DB       1
#define VECTOR_BP       3
#define VECTOR_DF       8
#define VECTOR_PF       14
#define VECTOR_AC       17
#define VECTOR_TIMER    0x40
#define VECTOR_SPURIOUS 0xFF
#define VECTOR_LEAVE    0x80    /* the way back from CPL 3 */
#define VECTOR_FRAME    0x81    /* a handler without a record */
#define VECTOR_SECOND   0x43    /* INT3 under the second IDT */
#define VECTOR_NMI      2

struct frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error;
	uint64_t rip, cs, rflags, rsp, ss;
};

struct snippet {
	uint64_t code, site, next;
};

/* What call_user needs; offsets are known to user.S. */
struct user_call {
	uint64_t rdi, rsi, rdx, rsp, rip, cs, ds;
};

/* What one processor is doing; exceptions are recorded against it. */
struct context {
	uint32_t op;
	uint32_t iteration;
	uint64_t site, next;
	uint64_t value_at;
	uint8_t value_size;
	uint8_t handler_exit;
	uint8_t cpu;
	uint32_t handler_flags;
	volatile uint64_t ticks;
	volatile uint32_t single_tick;          /* the next timer interrupt returns with interrupts off */
	uint64_t counted, counted_rip, dr6_any, dr6_all;        /* HANDLER_COUNT */
	uint64_t first_touch;
	uint64_t snippet_stack;         /* where leave_snippet returns */
	uint64_t operations;            /* done so far */
	volatile uint32_t state;        /* CPU_* */
	volatile uint32_t first_op;     /* where the processor begins when its state becomes CPU_GO */
};

#define CPU_ABSENT  0
#define CPU_IDLE    1
#define CPU_GO      2
#define CPU_BUSY    3
#define CPU_HALT    4

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

/* Tables of snippets by width of their code, in the order of snippets.h. */
extern const struct snippet snippets64[], snippets32[], snippets16[];
extern char isr_table[], frame_handler[], syscall_entry[], sysenter_entry[];
extern uint64_t gdt[];
extern struct context contexts[MAX_CPUS];

/* isr.S, user.S */
uint64_t call_snippet(uint64_t rdi, uint64_t rsi, uint64_t rdx, uint64_t code, uint64_t *stack);
uint64_t call_user(const struct user_call *call, uint64_t *stack);
void leave_snippet(uint64_t rax, uint64_t stack) __attribute__((noreturn));

/* tables.c */
void load_tables(unsigned cpu);
void use_tables(unsigned which);
void touch_stacks(unsigned cpu);
void set_data_base(unsigned selector, uint32_t base);
struct context *current(void);
/* paging.c */
void map_page(unsigned space, unsigned flags, uint64_t linear, uint64_t physical);
void repair_page(uint64_t linear);
/* exception.c */
int is_instruction_breakpoint(uint64_t dr6, uint64_t dr7);
/* exits.c */
void apic_init(void);
void force_exits(struct context *ctx, unsigned kind, uint64_t count);
/* legacy.c */
uint64_t exec_legacy(struct context *ctx, unsigned mode, const struct op *op);
/* smp.c */
void start_cpu(struct context *ctx, const struct op *op);
void wait_cpu(struct context *ctx, unsigned cpu);
void barrier(uint32_t processors);
void halt_others(const struct context *ctx);
/* state.c */
void record_debug_registers(struct record *record);
void record_captured(struct context *ctx, uint64_t address);
void record_features(struct context *ctx);
void record_control(struct context *ctx);
void record_tables(struct context *ctx);
void record_counted(struct context *ctx);
void expect_dr(struct context *ctx, unsigned n, uint64_t expected, uint64_t mask);
void set_control(unsigned number, uint64_t mask, uint64_t bits);
/* records.c */
struct record *record_new(struct context *ctx, unsigned kind);
uint32_t crc32(uint32_t crc, const void *data, size_t length);
void uart_init(void);
void send_banner(uint32_t nonce);
void offer_records(int keep);
void send_phase(uint32_t nonce, uint32_t phase);
void send_records(uint32_t nonce, int keep);
uint8_t uart_receive(void);
/* interpreter.c */
const struct snippet *find_snippet(unsigned mode, uint32_t number);
void run_ops(struct context *ctx, const struct payload_header *header, uint32_t first);
/* end.c */
void end_of_run(const struct context *ctx, const struct payload_header *header) __attribute__((noreturn));
