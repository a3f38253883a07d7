/* memcpy, memmove and memset, which GCC calls by name even where there is no C library: leave this file out where there
   is one. By words where it can be. Compile it with -fno-tree-loop-distribute-patterns, or GCC turns each loop into a
   call of the function that it is in. */
#include <stddef.h>
#include <stdint.h>

typedef uint32_t __attribute__((may_alias)) word;
typedef struct {
    uint32_t value;
} __attribute__((packed, may_alias)) loose_word; /* one load where the processor reads words at any address, else four */

/* Also right where the target begins before the source and overlaps it: a word is read before any byte is written that
   lies behind its start. */
static void forwards(uint8_t *to, const uint8_t *from, size_t bytes)
{
    for (; bytes && (uintptr_t)to % 4; bytes--)
        *to++ = *from++;
    if ((uintptr_t)from % 4 == 0)
        for (; bytes >= 16; bytes -= 16, to += 16, from += 16) {
            word a = ((const word *)from)[0], b = ((const word *)from)[1];
            word c = ((const word *)from)[2], d = ((const word *)from)[3];
            ((word *)to)[0] = a, ((word *)to)[1] = b, ((word *)to)[2] = c, ((word *)to)[3] = d;
        }
    for (; bytes >= 4; bytes -= 4, to += 4, from += 4)
        *(word *)to = ((const loose_word *)from)->value;
    while (bytes--)
        *to++ = *from++;
}

void *memcpy(void *restrict target, const void *restrict source, size_t bytes)
{
    forwards(target, source, bytes);
    return target;
}

void *memmove(void *target, const void *source, size_t bytes)
{
    uint8_t *to = target;
    const uint8_t *from = source;
    if ((uintptr_t)to - (uintptr_t)from >= bytes) /* it begins before the source, or after its end */
        forwards(to, from, bytes);
    else
        while (bytes--)
            to[bytes] = from[bytes];
    return target;
}

void *memset(void *target, int value, size_t bytes)
{
    uint8_t *to = target;
    const word four = (uint8_t)value * 0x01010101u;
    for (; bytes && (uintptr_t)to % 4; bytes--)
        *to++ = (uint8_t)value;
    for (; bytes >= 16; bytes -= 16, to += 16)
        ((word *)to)[0] = four, ((word *)to)[1] = four, ((word *)to)[2] = four, ((word *)to)[3] = four;
    for (; bytes >= 4; bytes -= 4, to += 4)
        *(word *)to = four;
    while (bytes--)
        *to++ = (uint8_t)value;
    return target;
}
