#include "memory.h"

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace handful {
namespace {

// Idle buffers beyond this go back to the system; a step of some hundred thousand Gaussians stays below it.
constexpr size_t kIdleLimit = size_t(512) << 20;

struct Pool {
    std::mutex guard;
    std::multimap<size_t, void *> idle;
    size_t idle_sum = 0, used_sum = 0, peak = 0;
};

Pool &pool() {  // never destroyed: buffers may outlive every static object
    static Pool *p = new Pool;
    return *p;
}

// Size classes one eighth of a power of two apart: pair counts differ a little from step to step and still find last step's buffer.
size_t round_up(size_t bytes) {
    size_t step = 4096;
    while (step * 16 <= bytes) step *= 2;
    return (bytes + step - 1) / step * step;
}

// Large buffers ask for large pages: splats are read in random order.
void *fresh(size_t bytes) {
    void *p = nullptr;
    const size_t large = size_t(2) << 20;
    if (posix_memalign(&p, bytes >= large ? large : 64, bytes)) return nullptr;
#ifdef __linux__
    if (bytes >= large) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return p;
}

void give_back(void *p, size_t bytes) {
    Pool &o = pool();
    std::lock_guard<std::mutex> lock(o.guard);
    o.used_sum -= bytes;
    if (o.idle_sum + bytes > kIdleLimit) {
        std::free(p);
        return;
    }
    o.idle.emplace(bytes, p);
    o.idle_sum += bytes;
}

}  // namespace

std::shared_ptr<void> acquire(size_t bytes) {
    bytes = round_up(bytes ? bytes : 1);
    Pool &o = pool();
    void *p = nullptr;
    {
        std::lock_guard<std::mutex> lock(o.guard);
        auto it = o.idle.lower_bound(bytes);
        if (it != o.idle.end() && it->first <= bytes + bytes / 4) {
            bytes = it->first;
            p = it->second;
            o.idle.erase(it);
            o.idle_sum -= bytes;
        }
        o.used_sum += bytes;
        if (o.used_sum + o.idle_sum > o.peak) o.peak = o.used_sum + o.idle_sum;
    }
    if (!p && !(p = fresh(bytes))) {
        release_idle();
        if (!(p = fresh(bytes))) {
            std::lock_guard<std::mutex> lock(o.guard);
            o.used_sum -= bytes;
            throw std::bad_alloc();
        }
    }
    return std::shared_ptr<void>(p, [bytes](void *q) { give_back(q, bytes); });
}

size_t idle_bytes() { return pool().idle_sum; }
size_t in_use_bytes() { return pool().used_sum; }
size_t peak_bytes() { return pool().peak; }
void reset_peak() { pool().peak = pool().used_sum + pool().idle_sum; }

void release_idle() {
    Pool &o = pool();
    std::lock_guard<std::mutex> lock(o.guard);
    for (auto &entry : o.idle) std::free(entry.second);
    o.idle.clear();
    o.idle_sum = 0;
}

}  // namespace handful
