// The image loss and the optimiser for Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <optional>
#include <stdexcept>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "parallel.h"
#include "tensors.h"

namespace nb = nanobind;
using namespace handful;

using Mut = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Flags = nb::ndarray<const bool, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// pred, target: V,H,W,3; weight: V,H,W or none. The loss (1 - ssim_weight) * mean |p - t| + ssim_weight * (1 - mean ssim), means weighted, and its gradient.
static nb::tuple l1_dssim(In pred, In target, OptIn weight, float ssim_weight, bool want_grad, int threads) {
    want(pred.ndim() == 4 && target.ndim() == 4 && pred.shape(3) == 3, "pred must be (V, H, W, 3)");
    for (size_t i = 0; i < 4; ++i) want(pred.shape(i) == target.shape(i), "pred and target differ in shape");
    const size_t views = pred.shape(0), pixels = pred.shape(1) * pred.shape(2);
    const int height = (int)pred.shape(1), width = (int)pred.shape(2);
    want(!weight || weight->size() == views * pixels, "weight must be (V, H, W)");
    Array<float> grad(want_grad ? views * pixels * 3 : 0);
    double loss = 0.0;
    {
        nb::gil_scoped_release release;
        const Kernels &k = kernels();
        double total = (double)(views * pixels);
        if (weight) {
            total = 0.0;
            for (size_t i = 0; i < views * pixels; ++i) total += weight->data()[i];
        }
        const double scale = total > 0.0 ? 1.0 / (3.0 * total) : 0.0;
        const size_t strips = (size_t)k.loss_strips(height), scratch_size = k.loss_scratch(width);
        Array<float> scratch(scratch_size * (size_t)threads);
        std::vector<double> sums(2 * views * strips);
        parallel_for(threads, (int64_t)(views * strips), [&](int64_t i, int worker) {
            const size_t v = (size_t)i / strips, strip = (size_t)i % strips;
            const LossJob job{pred.data() + v * pixels * 3,         target.data() + v * pixels * 3,          weight ? weight->data() + v * pixels : nullptr, width, height,
                              (float)((1.0 - ssim_weight) * scale), (float)(-(double)ssim_weight * scale)};
            k.loss_strip(job, (int)strip, scratch.data + scratch_size * (size_t)worker, &sums[2 * (size_t)i],
                         want_grad ? grad.data + v * pixels * 3 : nullptr);
        });
        double l1 = 0.0, ssim = 0.0;
        for (size_t i = 0; i < sums.size(); i += 2) l1 += sums[i], ssim += sums[i + 1];
        if (total > 0.0) loss = (1.0 - ssim_weight) * l1 * scale + ssim_weight * (1.0 - ssim * scale);
    }
    std::vector<size_t> shape = want_grad ? std::vector<size_t>{views, (size_t)height, (size_t)width, 3} : std::vector<size_t>{0};
    return nb::make_tuple(loss, to_tensor(grad, shape));
}

static const uint8_t *flags(const std::optional<Flags> &visible, size_t rows) {
    if (!visible) return nullptr;
    want(visible->size() == rows, "visible must have one entry per row");
    return reinterpret_cast<const uint8_t *>(visible->data());
}

// One Adam step in place. `lr`: one number, or one per column of a row.
static void adam_step(Mut param, In grad, Mut exp_avg, Mut exp_avg_sq, std::optional<Flags> visible, std::vector<float> lr, double beta1, double beta2,
                      double eps, int64_t step, int threads) {
    const size_t size = param.size(), rows = param.ndim() ? param.shape(0) : 1;
    want(grad.size() == size && exp_avg.size() == size && exp_avg_sq.size() == size, "param, grad and state differ in size");
    if (!size) return;
    const int row = (int)(size / rows);
    want(lr.size() == 1 || lr.size() == (size_t)row, "one learning rate, or one per column");
    want(step >= 1, "the first step is 1");
    const double correction1 = 1.0 - std::pow(beta1, (double)step), correction2 = 1.0 - std::pow(beta2, (double)step);
    std::vector<float> pattern;
    if (lr.size() > 1)
        for (int i = 0; i < row + 16; ++i) pattern.push_back((float)(lr[(size_t)(i % row)] / correction1));
    AdamJob job{param.data(), exp_avg.data(), exp_avg_sq.data(), grad.data(), flags(visible, rows), row, (float)(lr[0] / correction1),
                pattern.empty() ? nullptr : pattern.data(), (float)beta1, (float)beta2, (float)eps, (float)(1.0 / std::sqrt(correction2))};
    const Kernels &k = kernels();
    const int64_t chunk = std::max<int64_t>(256, (1 << 15) / row), count = ((int64_t)rows + chunk - 1) / chunk;
    nb::gil_scoped_release release;
    parallel_for(threads, count, [&](int64_t c, int) { k.adam_rows(job, c * chunk, std::min<int64_t>((int64_t)rows, (c + 1) * chunk)); });
}

static void decay_opacity(Mut logits, float factor, std::optional<Flags> visible, int threads) {
    want(factor > 0.0f && factor <= 1.0f, "factor must be in (0, 1]");
    const uint8_t *mask = flags(visible, logits.size());
    const Kernels &k = kernels();
    const int64_t n = (int64_t)logits.size(), chunk = 1 << 14;
    nb::gil_scoped_release release;
    parallel_for(threads, (n + chunk - 1) / chunk,
                 [&](int64_t c, int) { k.decay_rows(logits.data(), mask, factor, std::log(factor), c * chunk, std::min(n, (c + 1) * chunk)); });
}

void bind_image(nb::module_ &m) {
    auto A = [](const char *name) { return nb::arg(name).noconvert(); };
    m.def("l1_dssim", &l1_dssim, A("pred"), A("target"), A("weight").none(), nb::arg("ssim_weight"), nb::arg("want_grad"), nb::arg("threads"));
    m.def("adam_step", &adam_step, A("param"), A("grad"), A("exp_avg"), A("exp_avg_sq"), A("visible").none(), nb::arg("lr"), nb::arg("beta1"),
          nb::arg("beta2"), nb::arg("eps"), nb::arg("step"), nb::arg("threads"));
    m.def("decay_opacity", &decay_opacity, A("logits"), nb::arg("factor"), A("visible").none(), nb::arg("threads"));
}
