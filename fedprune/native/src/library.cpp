// The C interface: which instruction set this processor has, and running a program on it.

#include "program.h"

#include <thread>
#include <vector>

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

static Set best() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) return {"avx512", avx512::run};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {"avx2", avx2::run};
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
    if (same("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {"avx2", avx2::run};
#endif
    return found;
}
}  // namespace fedprune

extern "C" {

// The layout of steps that this library was built with; another one must not run here.
long long fedprune_layout() { return fedprune::FIELDS * 1000 + fedprune::KINDS; }

// What runs: the best instruction set of this processor, or a lesser one by its name, where that is to be tested.
const char* fedprune_instructions(const char* name) { return fedprune::named(name).name; }

void fedprune_run(const char* name, float* arena, long long lanes, long long examples, int threads,
                  const long long* steps, long long count) {
    static_assert(sizeof(long long) == sizeof(fedprune::i64));
    const fedprune::Batch batch{arena, lanes, examples, threads};
    fedprune::named(name).run(batch, reinterpret_cast<const fedprune::i64*>(steps), count);
}
}
