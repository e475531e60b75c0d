// Which variant of the kernels runs: decided once by what the processor can do, or by name (tests and benchmarks).
#include <atomic>
#include <cstring>

#include "kernels.h"

namespace handful {

static const Kernels *fastest() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (kernels_avx512() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        return kernels_avx512();
    if (kernels_avx2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kernels_avx2();
#endif
    return kernels_base();
}

static std::atomic<const Kernels *> chosen{nullptr};

const Kernels &kernels() {
    const Kernels *k = chosen.load(std::memory_order_relaxed);
    if (!k) chosen.store(k = fastest(), std::memory_order_relaxed);
    return *k;
}

bool choose_kernels(const char *name) {
    const Kernels *best = fastest(), *all[3] = {kernels_avx512(), kernels_avx2(), kernels_base()};
    if (!std::strcmp(name, "auto")) return chosen.store(best), true;
    bool runs = false;  // a variant runs if it stands at or behind the fastest one
    for (const Kernels *k : all) {
        runs = runs || k == best;
        if (k && runs && !std::strcmp(k->name, name)) return chosen.store(k), true;
    }
    return false;
}

}  // namespace handful
