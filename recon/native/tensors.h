// Arrays from and to Python.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

#include "memory.h"

namespace handful {

using In = nanobind::ndarray<const float, nanobind::c_contig, nanobind::device::cpu>;
using OptIn = std::optional<In>;

inline void want(bool ok, const char *what) {
    if (!ok) throw std::invalid_argument(what);
}

// A torch tensor that owns its part of the pool.
template <class T> nanobind::ndarray<nanobind::pytorch, T> to_tensor(const Array<T> &a, const std::vector<size_t> &shape) {
    auto *owner = new std::shared_ptr<void>(a.owner);
    nanobind::capsule capsule(owner, [](void *p) noexcept { delete static_cast<std::shared_ptr<void> *>(p); });
    return nanobind::ndarray<nanobind::pytorch, T>(a.data, shape.size(), shape.data(), capsule);
}

}  // namespace handful
