// Adam (Kingma and Ba 2015) over the rows that a mask names, and the decay of opacities kept as logits.
namespace handful {
namespace HANDFUL_NS {

// Floats [begin, end) of the flat arrays; `column` is begin modulo the row's length.
inline void adam_span(const AdamJob &job, int64_t begin, int64_t end) {
    const VF b1 = set1(job.beta1), b2 = set1(job.beta2), c1 = set1(1.0f - job.beta1), c2 = set1(1.0f - job.beta2);
    const VF root = set1(job.inv_sqrt_correction2), eps = set1(job.eps);
    const int D = job.row;
    for (int64_t i = begin; i < end; i += W) {
        alignas(64) float tail[4][W];
        const bool whole = end - i >= W;
        float *p = job.param + i, *m = job.exp_avg + i, *v = job.exp_avg_sq + i;
        const float *g = job.grad + i;
        if (!whole) {
            const size_t bytes = (size_t)(end - i) * sizeof(float);
            memset(tail, 0, sizeof tail);
            memcpy(tail[0], p, bytes), memcpy(tail[1], m, bytes), memcpy(tail[2], v, bytes), memcpy(tail[3], g, bytes);
            p = tail[0], m = tail[1], v = tail[2], g = tail[3];
        }
        VF lr = job.column_lr ? load(job.column_lr + i % D) : set1(job.lr);
        VF grad = load(g), first = fma(b1, load(m), c1 * grad), second = fma(b2, load(v), c2 * grad * grad);
        store(m, first), store(v, second);
        store(p, load(p) - lr * first / fma(sqrt(second), root, eps));
        if (!whole) {
            const size_t bytes = (size_t)(end - i) * sizeof(float);
            memcpy(job.param + i, tail[0], bytes), memcpy(job.exp_avg + i, tail[1], bytes), memcpy(job.exp_avg_sq + i, tail[2], bytes);
        }
    }
}

// Rows [begin, end), those with visible[row] where a mask is given: neighbours go as one span.
inline void adam_rows(const AdamJob &job, int64_t begin, int64_t end) {
    if (!job.visible) return adam_span(job, begin * job.row, end * job.row);
    for (int64_t i = begin; i < end;) {
        if (!job.visible[i]) {
            ++i;
            continue;
        }
        int64_t first = i;
        while (i < end && job.visible[i]) ++i;
        adam_span(job, first * job.row, i * job.row);
    }
}

// logit <- logit(factor * sigmoid(logit)) = log(factor) - log(1 - factor + exp(-logit)), 0 < factor <= 1
inline void decay_rows(float *logits, const uint8_t *visible, float factor, float log_factor, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += W) {
        const int n = end - i < W ? (int)(end - i) : W;
        alignas(64) float lane[W] = {};
        memcpy(lane, logits + i, (size_t)n * sizeof(float));
        VF x = load(lane);
        VF y = set1(log_factor) - set1(0.69314718f) * log2(set1(1.0f - factor) + exp(zero() - x));
        y = select(x > set1(-80.0f), y, x + set1(log_factor));
        store(lane, y);
        for (int l = 0; l < n; ++l)
            if (!visible || visible[i + l]) logits[i + l] = lane[l];
    }
}

}  // namespace HANDFUL_NS
}  // namespace handful
