/* The machine of machine.h on a board that QEMU emulates: files by semihosting, instructions counted by a clock, the
   stack measured by painting it. A program on a real board has no use for this file. */
#include "machine.h"

#define SYS_OPEN 0x01
#define SYS_CLOSE 0x02
#define SYS_WRITE0 0x04
#define SYS_WRITE 0x05
#define SYS_READ 0x06
#define SYS_EXIT_EXTENDED 0x20
#define APPLICATION_EXIT 0x20026u
#define MODE_READ 1
#define MODE_WRITE 5

/* The counter of the MPS boards: 32 bits, at 25 MHz or, where the processor has TrustZone, at 20, so one tick is 40 or
   50 ns of virtual time. With QEMU's -icount shift=5 an instruction takes 32 ns: five instructions are four ticks, and an
   inference may take 4,294 million of them before a number of 32 bits is too small. */
#if __ARM_ARCH < 8
#define COUNTER (*(volatile uint32_t *)0x40028018)
#define INSTRUCTIONS(ticks) ((ticks) * 40 / 32)
#else
#ifdef __ARM_FEATURE_MVE
#define COUNTER (*(volatile uint32_t *)0x59302018)
#else
#define COUNTER (*(volatile uint32_t *)0x50302018)
#endif
#define INSTRUCTIONS(ticks) ((ticks) * 50 / 32)
#endif

#define CONFIGURATION (*(volatile uint32_t *)0xE000ED14)
#define TRAP_UNALIGNED 8u

#define PAINT 0xC5A35C3Au

extern uint32_t bss_end[];

static int inputs_file, outputs_file;
static uint32_t runs, overhead, stack_bytes;
static uint64_t ticks;

static uintptr_t ask(uintptr_t operation, const void *argument)
{
    register uintptr_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void print(const char *text)
{
    ask(SYS_WRITE0, text);
}

static void print_number(uint32_t number)
{
    char text[11], *first = text + sizeof text;
    *--first = 0;
    do
        *--first = (char)('0' + number % 10);
    while (number /= 10);
    print(first);
}

static int leave(int status)
{
    uintptr_t how[2] = {APPLICATION_EXIT, (uintptr_t)status};
    ask(SYS_EXIT_EXTENDED, how);
    return status;
}

static int fail(const char *why)
{
    print(why);
    print("\n");
    return leave(1);
}

void fault(void)
{
    fail("the processor reported a fault: memory that is not there, or a word at an odd address");
}

static int open_file(const char *name, uintptr_t length, uintptr_t mode)
{
    uintptr_t how[3] = {(uintptr_t)name, mode, length};
    return (int)ask(SYS_OPEN, how);
}

/* Bytes that were not moved. */
static uintptr_t move(uintptr_t operation, int file, const void *memory, size_t bytes)
{
    uintptr_t how[3] = {(uintptr_t)file, (uintptr_t)memory, bytes};
    return ask(operation, how);
}

/* What is called to learn what the measurement itself costs. */
static const int8_t *nothing(void)
{
    return 0;
}

int machine_open(int count, char **words)
{
    (void)count, (void)words; /* a board has no command line */
#if __ARM_ARCH == 6
    CONFIGURATION |= TRAP_UNALIGNED; /* code for a Cortex-M0 runs on an M3, which would let pass what an M0 cannot do */
#endif
    inputs_file = open_file("inputs.bin", 10, MODE_READ);
    if (inputs_file < 0)
        fail("inputs.bin: cannot be read; it holds the inputs one after the other, one byte a value");
    outputs_file = open_file("outputs.bin", 11, MODE_WRITE);
    if (outputs_file < 0)
        fail("outputs.bin: cannot be written");
    machine_measured(nothing);
    overhead = (uint32_t)INSTRUCTIONS(ticks);
    runs = 0;
    ticks = 0;
    return 1;
}

int machine_read(int8_t *input, size_t bytes)
{
    size_t lacking = move(SYS_READ, inputs_file, input, bytes);
    if (lacking != 0 && lacking != bytes)
        fail("inputs.bin: ends within an input; its size must be a multiple of MODEL_INPUT_BYTES (of sounds: FEATURES_INPUT_BYTES)");
    return lacking == 0;
}

int machine_write(const int8_t *output, size_t bytes)
{
    return move(SYS_WRITE, outputs_file, output, bytes) == 0 ? 1 : fail("outputs.bin: cannot be written");
}

const int8_t *machine_measured(const int8_t *(*run)(void))
{
    volatile uint32_t *here, *word;
    __asm__ volatile("mov %0, sp" : "=r"(here));
    if (runs == 0) /* once is enough: the path of the calls does not depend on the values */
        for (word = bss_end; word < here; word++)
            *word = PAINT;

    uint32_t before = COUNTER;
    const int8_t *result = run();
    ticks += COUNTER - before;

    if (runs == 0) {
        for (word = bss_end; word < here && *word == PAINT; word++)
            ;
        stack_bytes = (uint32_t)((uintptr_t)here - (uintptr_t)word);
    }
    runs++;
    return result;
}

int machine_report(long inputs, int label)
{
    ask(SYS_CLOSE, (uintptr_t[]){(uintptr_t)inputs_file});
    if (ask(SYS_CLOSE, (uintptr_t[]){(uintptr_t)outputs_file}) != 0)
        fail("outputs.bin: cannot be written");
    if (inputs == 0)
        fail("inputs.bin: holds no input");
    print("{\"inputs\": ");
    print_number((uint32_t)inputs);
    print(", \"last_class\": ");
    print_number((uint32_t)label);
    print(", \"instructions\": ");
    print_number((uint32_t)(INSTRUCTIONS(ticks) / runs - overhead));
    print(", \"stack_bytes\": ");
    print_number(stack_bytes);
    print("}\n");
    return leave(0);
}
