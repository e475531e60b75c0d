// Front-to-back compositing of one tile, and its gradient. A tile's pixels are kept block by block (4 x 4), so that a vector holds neighbours.
namespace handful {
namespace HANDFUL_NS {

// Pixel centres of a tile in block order, relative to its corner.
struct PixelOffsets {
    alignas(64) float x[kTilePixels], y[kTilePixels];
    constexpr PixelOffsets() : x(), y() {
        for (int block = 0; block < 16; ++block)
            for (int p = 0; p < kBlockPixels; ++p) {
                x[block * kBlockPixels + p] = (float)(block % 4 * kBlock + p % kBlock) + 0.5f;
                y[block * kBlockPixels + p] = (float)(block / 4 * kBlock + p / kBlock) + 0.5f;
            }
    }
};
alignas(64) constexpr PixelOffsets kOffsets;

inline int lowest_bit(unsigned m) { return __builtin_ctz(m); }
inline void prefetch(const void *p) { __builtin_prefetch(p); }

struct TileRect {
    int x0, y0, w, h;  // w, h: pixels inside the image
    TileRect(const Camera &cam, int tile) {
        x0 = tile % cam.tiles_x * kTile, y0 = tile / cam.tiles_x * kTile;
        w = cam.width - x0 < kTile ? cam.width - x0 : kTile;
        h = cam.height - y0 < kTile ? cam.height - y0 : kTile;
    }
};
inline int block_index(int x, int y) { return ((y >> 2) * 4 + (x >> 2)) * kBlockPixels + (y & 3) * kBlock + (x & 3); }

template <bool NORMAL>
inline void forward_tile(const Camera &cam, const Options &opt, const Splat *splats, Pairs pairs, int tile, PixelState state, Images out) {
    constexpr int C = NORMAL ? 7 : 4;
    alignas(64) float T[kTilePixels], acc[C][kTilePixels];
    float *final_T = state.transmittance + (size_t)tile * kTilePixels;
    int32_t *stop = state.stop + (size_t)tile * kTilePixels;
    const int begin = (int)pairs.tile_begin[tile], end = (int)pairs.tile_begin[tile + 1];
    const TileRect rect(cam, tile);
    memset(acc, 0, sizeof acc);
    unsigned alive = 0;  // blocks with a pixel that still lets light through
    for (int block = 0; block < 16; ++block)
        for (int p = 0; p < kBlockPixels; ++p) {
            int i = block * kBlockPixels + p;
            bool inside = kOffsets.x[i] < (float)rect.w && kOffsets.y[i] < (float)rect.h;
            T[i] = inside ? 1.0f : 0.0f;  // 0 = done
            final_T[i] = 0.0f;
            stop[i] = inside ? end : begin;
            alive |= (unsigned)inside << block;
        }

    for (int i = begin; i < end && alive; ++i) {
        if (i + 8 < end) prefetch(splats + pairs.gaussian[i + 8]);
        unsigned todo = pairs.mask[i] & alive, touched = 0;
        const Splat &s = splats[pairs.gaussian[i]];
        const VF mx = set1(s.mx - (float)rect.x0), my = set1(s.my - (float)rect.y0), qa = set1(s.qa), qb = set1(s.qb), qc = set1(s.qc), lop = set1(s.lop);
        while (todo) {
            const int block = lowest_bit(todo);
            todo &= todo - 1;
            bool some = false, done = true;
            for (int o = block * kBlockPixels; o < (block + 1) * kBlockPixels; o += W) {
                VF dx = load(kOffsets.x + o) - mx, dy = load(kOffsets.y + o) - my;
                VF e = fnma(dx, fma(qa, dx, qb * dy), fnma(qc * dy, dy, lop));
                VF alpha = min(exp2(e), set1(kAlphaMax));
                VF t = load(T + o);
                VM hit = (alpha >= set1(kAlphaMin)) & (t > zero());
                if (!any(hit)) {
                    if (W < kBlockPixels) done = done && !any(t > zero());
                    continue;
                }
                some = true;
                alpha = keep(hit, alpha);
                VF w = alpha * t, after = attenuate(t, alpha);
                VM ends = hit & (after < set1(kTransmittanceMin));
                if (any(ends)) {
                    store(final_T + o, select(ends, t, load(final_T + o)));
                    storei(stop + o, select(ends, set1i(i), loadi(stop + o)));
                    w = keep(!ends, w), after = keep(!ends, after);
                }
                done = done && !any(after > zero());
                store(T + o, after);
                store(acc[0] + o, fma(w, set1(s.r), load(acc[0] + o)));
                store(acc[1] + o, fma(w, set1(s.g), load(acc[1] + o)));
                store(acc[2] + o, fma(w, set1(s.b), load(acc[2] + o)));
                store(acc[3] + o, fma(w, set1(s.z), load(acc[3] + o)));
                if (NORMAL) {
                    store(acc[C - 3] + o, fma(w, set1(s.nx), load(acc[C - 3] + o)));
                    store(acc[C - 2] + o, fma(w, set1(s.ny), load(acc[C - 2] + o)));
                    store(acc[C - 1] + o, fma(w, set1(s.nz), load(acc[C - 1] + o)));
                }
            }
            touched |= (unsigned)some << block;
            if (some && done) alive &= ~(1u << block);
        }
        pairs.mask[i] = (uint16_t)touched;
        if (!alive)
            for (int k = i + 1; k < end; ++k) pairs.mask[k] = 0;
    }

    for (int o = 0; o < kTilePixels; o += W) {
        VF t = load(T + o);
        t = select(t > zero(), t, load(final_T + o));
        store(final_T + o, t);
        VF alpha = set1(1.0f) - t;
        VM some = alpha > zero();
        store(acc[3] + o, keep(some, load(acc[3] + o) / select(some, alpha, set1(1.0f))));
        for (int c = 0; c < 3; ++c) store(acc[c] + o, fma(t, set1(opt.background[c]), load(acc[c] + o)));
    }
    for (int y = 0; y < rect.h; ++y) {
        size_t row = (size_t)(rect.y0 + y) * cam.width + rect.x0;
        for (int x = 0; x < rect.w; ++x) {
            int i = block_index(x, y);
            for (int c = 0; c < 3; ++c) out.color[3 * (row + x) + c] = acc[c][i];
            out.alpha[row + x] = 1.0f - final_T[i];
            out.depth[row + x] = acc[3][i];
            if (NORMAL)
                for (int c = 0; c < 3; ++c) out.normal[3 * (row + x) + c] = acc[C - 3 + c][i];
        }
    }
}

// Back to front; writes grads[slot] (kGrad floats) and hit[slot] of every pair that had drawn something.
// With u = sum over channels of dL/dchannel * value, one number per splat and pixel carries all channels: dL/dalpha = T u - behind / (1 - alpha).
template <bool NORMAL>
inline void backward_tile(const Camera &cam, const Options &opt, const Splat *splats, Pairs pairs, int tile, PixelState state, const float *depth,
                          ImageGrads in, float *grads, uint8_t *hit_slot) {
    constexpr int C = NORMAL ? 7 : 4;
    alignas(64) float T[kTilePixels], behind[kTilePixels], v[C][kTilePixels];
    const float *final_T = state.transmittance + (size_t)tile * kTilePixels;
    const int32_t *stop = state.stop + (size_t)tile * kTilePixels;
    const int begin = (int)pairs.tile_begin[tile], end = (int)pairs.tile_begin[tile + 1];
    if (begin == end) return;
    const TileRect rect(cam, tile);
    memset(v, 0, sizeof v);
    memset(behind, 0, sizeof behind);
    for (int y = 0; y < rect.h; ++y) {
        size_t row = (size_t)(rect.y0 + y) * cam.width + rect.x0;
        for (int x = 0; x < rect.w; ++x) {
            const int i = block_index(x, y);
            float tail = 0.0f;  // dL / d(final transmittance)
            if (in.color)
                for (int c = 0; c < 3; ++c) v[c][i] = in.color[3 * (row + x) + c], tail += v[c][i] * opt.background[c];
            if (in.alpha) tail -= in.alpha[row + x];
            const float alpha = 1.0f - final_T[i];
            if (in.depth && alpha > 0.0f) {
                v[3][i] = in.depth[row + x] / alpha;
                tail += v[3][i] * depth[row + x];
            }
            if (NORMAL && in.normal)
                for (int c = 0; c < 3; ++c) v[C - 3 + c][i] = in.normal[3 * (row + x) + c];
            behind[i] = tail * final_T[i];
        }
    }
    for (int o = 0; o < kTilePixels; o += W) store(T + o, load(final_T + o));

    for (int i = end - 1; i >= begin; --i) {
        unsigned todo = pairs.mask[i];
        if (!todo) continue;
        if (i - 8 >= begin) prefetch(splats + pairs.gaussian[i - 8]);
        const Splat &s = splats[pairs.gaussian[i]];
        const VF mx = set1(s.mx - (float)rect.x0), my = set1(s.my - (float)rect.y0), qa = set1(s.qa), qb = set1(s.qb), qc = set1(s.qc), lop = set1(s.lop);
        VF g[kGrad];
        for (int k = 0; k < kGrad; ++k) g[k] = zero();
        while (todo) {
            const int block = lowest_bit(todo);
            todo &= todo - 1;
            for (int o = block * kBlockPixels; o < (block + 1) * kBlockPixels; o += W) {
                VF dx = load(kOffsets.x + o) - mx, dy = load(kOffsets.y + o) - my;
                VF raw = exp2(fnma(dx, fma(qa, dx, qb * dy), fnma(qc * dy, dy, lop)));
                VM hit = (raw >= set1(kAlphaMin)) & (loadi(stop + o) > set1i(i));
                if (!any(hit)) continue;
                VF alpha = keep(hit, min(raw, set1(kAlphaMax)));
                VF ra = rcp(set1(1.0f) - alpha), t = load(T + o) * ra, w = alpha * t;
                store(T + o, t);
                VF v0 = load(v[0] + o), v1 = load(v[1] + o), v2 = load(v[2] + o), v3 = load(v[3] + o);
                VF u = fma(v0, set1(s.r), fma(v1, set1(s.g), fma(v2, set1(s.b), v3 * set1(s.z))));
                g[kGr] = fma(w, v0, g[kGr]), g[kGg] = fma(w, v1, g[kGg]), g[kGb] = fma(w, v2, g[kGb]), g[kGz] = fma(w, v3, g[kGz]);
                if (NORMAL) {
                    VF n0 = load(v[C - 3] + o), n1 = load(v[C - 2] + o), n2 = load(v[C - 1] + o);
                    u = fma(n0, set1(s.nx), fma(n1, set1(s.ny), fma(n2, set1(s.nz), u)));
                    g[kGnx] = fma(w, n0, g[kGnx]), g[kGny] = fma(w, n1, g[kGny]), g[kGnz] = fma(w, n2, g[kGnz]);
                }
                VF b = load(behind + o);
                VF ga = keep(raw <= set1(kAlphaMax), alpha * fnma(b, ra, t * u));  // the cap passes no gradient
                store(behind + o, fma(w, u, b));
                VF gx = ga * dx, gy = ga * dy;
                g[kG1] += ga, g[kGx] += gx, g[kGy] += gy;
                g[kGxx] = fma(gx, dx, g[kGxx]), g[kGxy] = fma(gx, dy, g[kGxy]), g[kGyy] = fma(gy, dy, g[kGyy]);
            }
        }
        const uint32_t slot = pairs.slot[i];
        reduce16(g, grads + (size_t)slot * kGrad);
        hit_slot[slot] = 1;
    }
}

}  // namespace HANDFUL_NS
}  // namespace handful
