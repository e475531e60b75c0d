// Memory that is used again: a step allocates the same few large buffers each time, and fresh pages cost more than the arithmetic on them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace handful {

// `bytes` of uninitialised memory, 64-byte aligned; goes back to the pool with the last owner.
std::shared_ptr<void> acquire(size_t bytes);

size_t idle_bytes();     // held by the pool and owned by nobody
size_t in_use_bytes();   // owned
size_t peak_bytes();     // largest sum of both since reset_peak()
void reset_peak();
void release_idle();

// An array out of the pool.
template <class T> struct Array {
    std::shared_ptr<void> owner;
    T *data = nullptr;
    size_t size = 0;
    Array() = default;
    explicit Array(size_t n) : owner(acquire(n * sizeof(T))), data(static_cast<T *>(owner.get())), size(n) {}
    T &operator[](size_t i) const { return data[i]; }
};

}  // namespace handful
