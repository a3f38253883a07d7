/* From reset to main on an Arm Cortex-M (ARMv6-M to ARMv8.1-M) with no operating system and no C library. */
#include <stdint.h>

extern uint32_t data_start[], data_end[], data_image[], bss_start[], bss_end[], stack_top[];

int main(int count, char **words);

#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
#define COPROCESSORS (*(volatile uint32_t *)0xE000ED88)
#define FLOATING_POINT (15u << 20)
#endif

void reset(void)
{
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    COPROCESSORS |= FLOATING_POINT; /* off after a reset */
    __asm__ volatile("dsb\n isb" ::: "memory");
#endif
    const uint32_t *from = data_image;
    for (uint32_t *to = data_start; to < data_end; to++)
        *to = *from++;
    for (uint32_t *to = bss_start; to < bss_end; to++)
        *to = 0;
    main(0, 0);
    for (;;)
        ;
}

/* What does not belong to a program ends here; a program that wants to hear of it defines a fault() of its own. */
__attribute__((weak)) void fault(void)
{
    for (;;)
        ;
}

/* The first 16 words of flash, as the processor reads them. Interrupts of your chip follow them; none is used here. */
static const struct {
    uint32_t *stack;
    void (*handlers[15])(void);
} vectors __attribute__((section(".vectors"), used)) = {
    stack_top,
    {reset, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, fault},
};
