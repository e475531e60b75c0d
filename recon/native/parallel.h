// A parallel loop: OpenMP where the compiler has it, else std::thread. Not for isa_*.cpp (see simd.h).
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace handful {

// Calls body(index, worker) for every index below count, in any order, on up to `threads` workers; the first exception is thrown again here.
template <class F> void parallel_for(int threads, int64_t count, const F &body) {
    if (threads > count) threads = (int)count;
    if (threads <= 1) {
        for (int64_t i = 0; i < count; ++i) body(i, 0);
        return;
    }
    std::exception_ptr error;
    std::mutex guard;
    std::atomic<int64_t> next{0};
    auto work = [&](int worker) {
        try {
            for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(i, worker);
        } catch (...) {
            next.store(count);
            std::lock_guard<std::mutex> lock(guard);
            if (!error) error = std::current_exception();
        }
    };
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    work(omp_get_thread_num());
#else
    std::vector<std::thread> pool;
    try {
        for (int t = 1; t < threads; ++t) pool.emplace_back(work, t);
    } catch (const std::system_error &) {
        // no more threads to be had: those that run, and this one, do all the work
    }
    work(0);
    for (auto &t : pool) t.join();
#endif
    if (error) std::rethrow_exception(error);
}

}  // namespace handful
