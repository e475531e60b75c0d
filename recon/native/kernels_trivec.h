// How a cloud of tensors of three lines each is read. Semantics: recon/field/trivec.py, its slow twin.
#include "field_types.h"

namespace handful {
namespace HANDFUL_NS {

// A tensor that a place asks: of each axis, where its lower line point lies in the lines, and how far beyond it; and its share in what is said.
struct Asked {
    int32_t at[3];
    float t[3], share;
};

// kept: of each scale, how many are asked, then those
constexpr size_t kAskedFloats = sizeof(Asked) / sizeof(float);
inline size_t kept_floats(const TriCloud &g) { return (size_t)g.count * (1 + (size_t)g.nearest * kAskedFloats); }

struct Near {
    float away;  // squared
    int64_t tensor;
};

// The tensors of a scale whose boxes hold the place, at most `nearest`, nearest first; of equally near ones those listed first.
inline int nearest_of(const TriScale &s, const float *p, int nearest, Near *best) {
    int64_t cell = 0;
    for (int a = 0; a < 3; ++a) {
        const int i = (int)(p[a] * (float)s.cells);
        cell = cell * s.cells + (i < s.cells ? i : s.cells - 1);
    }
    const float half = s.size / 2;
    int n = 0;
    for (int64_t e = s.starts[cell]; e < s.starts[cell + 1]; ++e) {
        const float *c = s.centers + 3 * s.listed[e];
        const float x = p[0] - c[0], y = p[1] - c[1], z = p[2] - c[2];
        if (!(fabsf(x) <= half && fabsf(y) <= half && fabsf(z) <= half)) continue;
        const float away = x * x + y * y + z * z;
        if (n == nearest && !(away < best[n - 1].away)) continue;
        int at = n < nearest ? n++ : n - 1;
        for (; at > 0 && away < best[at - 1].away; --at) best[at] = best[at - 1];
        best[at] = {away, s.listed[e]};
    }
    return n;
}

inline Asked asked_at(const TriCloud &g, const TriScale &s, const float *p, Near near) {
    Asked a;
    for (int k = 0; k < 3; ++k) {
        const float at = ((p[k] - s.centers[3 * near.tensor + k]) / s.size + 0.5f) * (float)(s.points - 1);
        int i = at > 0 ? (int)at : 0;
        if (i > s.points - 2) i = s.points - 2;
        a.at[k] = (int32_t)(s.first + ((3 * near.tensor + k) * s.points + i) * g.channels), a.t[k] = at - (float)i;
    }
    const float least = kClose * s.size;
    a.share = 1.0f / sqrtf(near.away > least * least ? near.away : least * least);
    return a;
}

inline VF on_line(const float *lines, const Asked &a, int k, int C, int m) {
    const float *p = lines + a.at[k] + m;
    const VF low = load(p);
    return fma(set1(a.t[k]), load(p + C) - low, low);
}

inline bool look_up(const TriCloud &g, const float *xyz, float *kept, float *x) {
    const int C = g.channels;
    float p[3];
    for (int a = 0; a < 3; ++a) {
        if (!(xyz[a] == xyz[a])) return false;
        p[a] = xyz[a] > 0 ? (xyz[a] < 1 ? xyz[a] : 1) : 0;
    }
    bool held = false;
    Near best[kMostNearest];
    for (int k = 0; k < g.count; ++k, x += C, kept += 1 + (size_t)g.nearest * kAskedFloats) {
        const TriScale &s = g.scales[k];
        const int n = nearest_of(s, p, g.nearest, best);
        kept[0] = (float)n, held = held || n;
        Asked *asked = reinterpret_cast<Asked *>(kept + 1);
        float total = 0;
        for (int i = 0; i < n; ++i) asked[i] = asked_at(g, s, p, best[i]), total += asked[i].share;
        for (int i = 0; i < n; ++i) asked[i].share /= total;
        for (int m = 0; m < C; m += W) {
            VF sum = zero();
            for (int i = 0; i < n; ++i)
                sum = fma(set1(asked[i].share), on_line(g.lines, asked[i], 0, C, m) * on_line(g.lines, asked[i], 1, C, m) * on_line(g.lines, asked[i], 2, C, m), sum);
            store(x + m, sum);
        }
    }
    return held;
}

inline void scatter(const TriCloud &g, const float *kept, const float *dx, float *grads) {
    const int C = g.channels;
    for (int k = 0; k < g.count; ++k, dx += C, kept += 1 + (size_t)g.nearest * kAskedFloats) {
        const Asked *asked = reinterpret_cast<const Asked *>(kept + 1);
        for (int i = 0, n = (int)kept[0]; i < n; ++i) {
            const Asked &a = asked[i];
            for (int m = 0; m < C; m += W) {
                const VF d = set1(a.share) * load(dx + m), x = on_line(g.lines, a, 0, C, m), y = on_line(g.lines, a, 1, C, m), z = on_line(g.lines, a, 2, C, m);
                const VF to[3] = {d * y * z, d * x * z, d * x * y};
                for (int j = 0; j < 3; ++j) {
                    float *q = grads + a.at[j] + m;
                    add(q, set1(1 - a.t[j]) * to[j]), add(q + C, set1(a.t[j]) * to[j]);
                }
            }
        }
    }
}

}  // namespace HANDFUL_NS
}  // namespace handful
