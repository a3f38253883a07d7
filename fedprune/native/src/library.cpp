// The C interface: which instruction set this processor has, and running a program on it.

#include "program.h"

#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fedprune {
void in_parallel(int threads, i64 count, void (*act)(const void*, i64, i64), const void* what) {
    if (threads > count) threads = int(count);
    std::vector<std::thread> others;
    for (i64 t = 1; t < threads; t++)
        others.emplace_back(act, what, t * count / threads, (t + 1) * count / threads);
    act(what, 0, threads > 0 ? count / threads : 0);
    for (std::thread& other : others) other.join();
}

#define DECLARE(name) namespace name { void run(const Batch&, const i64*, i64); }
DECLARE(baseline)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
#endif

struct Set {
    const char* name;
    Run run;
};

#if defined(__x86_64__)
struct Has {
    bool avx2, avx512;
};

// Asked of the processor itself, and whether the system keeps such registers: not every compiler's runtime knows it.
static Has processor_has() {
    unsigned a, b, c, d, kept, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA)) return {false, false};
    __asm__("xgetbv" : "=a"(kept), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return {false, false};
    constexpr unsigned wide = bit_AVX512F | bit_AVX512VL | bit_AVX512DQ | bit_AVX512BW;
    const bool avx2 = (kept & 0x06) == 0x06 && (b & bit_AVX2);
    return {avx2, avx2 && (kept & 0xe6) == 0xe6 && (b & wide) == wide};
}
#endif

static Set best() {
#if defined(__x86_64__)
    static const Has has = processor_has();
    if (has.avx512) return {"avx512", avx512::run};
    if (has.avx2) return {"avx2", avx2::run};
    return {"sse2", baseline::run};
#else
    return {"neon", baseline::run};
#endif
}

static Set named(const char* name) {
    const Set found = best();
    if (!name || !*name) return found;
    const auto same = [name](const char* other) {
        for (const char* at = name; *at || *other; at++, other++)
            if (*at != *other) return false;
        return true;
    };
    if (same("baseline")) return {"baseline", baseline::run};
#if defined(__x86_64__)
    if (same("avx2") && processor_has().avx2) return {"avx2", avx2::run};
#endif
    return found;
}
}  // namespace fedprune

#if defined(_WIN32)
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

extern "C" {

// The layout of steps that this library was built with; another one must not run here.
EXPORTED long long fedprune_layout() { return fedprune::LAYOUT; }

// What runs: the best instruction set of this processor, or a lesser one by its name, where that is to be tested.
EXPORTED const char* fedprune_instructions(const char* name) { return fedprune::named(name).name; }

EXPORTED void fedprune_run(const char* name, float* arena, long long lanes, long long examples, int threads,
                           const long long* steps, long long count) {
    static_assert(sizeof(long long) == sizeof(fedprune::i64));
    const fedprune::Batch batch{arena, lanes, examples, threads};
    fedprune::named(name).run(batch, reinterpret_cast<const fedprune::i64*>(steps), count);
}
}
