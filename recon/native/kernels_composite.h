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

// Calls body(block, row in the block, index of the first pixel in the image, pixels inside the image: 1 to 4) for the tile's part of the image.
template <class F> inline void for_block_rows(const Camera &cam, const TileRect &rect, const F &body) {
    for (int y = 0; y < rect.h; ++y)
        for (int x = 0; x < rect.w; x += kBlock) {
            const int n = rect.w - x < kBlock ? rect.w - x : kBlock;
            body(y / kBlock * 4 + x / kBlock, y % kBlock, (size_t)(rect.y0 + y) * cam.width + rect.x0 + x, n);
        }
}

// n <= 4 floats; the common 4 without a loop
inline void copy4(const float *from, float *to, int n) {
    if (n == 4) memcpy(to, from, 4 * sizeof(float));
    else memcpy(to, from, (size_t)n * sizeof(float));
}
// three fields of a block row to n <= 4 pixels of three channels, and back
inline void interleave(const float *f, float *pixels, int n) {
    if (n == 4) {
        for (int i = 0; i < 4; ++i)
            for (int c = 0; c < 3; ++c) pixels[3 * i + c] = f[c * kBlockPixels + i];
    } else {
        for (int i = 0; i < n; ++i)
            for (int c = 0; c < 3; ++c) pixels[3 * i + c] = f[c * kBlockPixels + i];
    }
}
inline void deinterleave(const float *pixels, float *f, int n) {
    if (n == 4) {
        for (int i = 0; i < 4; ++i)
            for (int c = 0; c < 3; ++c) f[c * kBlockPixels + i] = pixels[3 * i + c];
    } else {
        for (int i = 0; i < n; ++i)
            for (int c = 0; c < 3; ++c) f[c * kBlockPixels + i] = pixels[3 * i + c];
    }
}

constexpr int kBatch = 128;  // pairs of a tile that are listed block by block together

// For each block, which pairs of the batch touch it: list[block][0 .. count[block]), as places in the batch.
inline void list_blocks(const uint16_t *mask, int n, unsigned alive, int (*list)[kBatch + 16], int *count) {
    for (int block = 0; block < 16; ++block) count[block] = 0;
#ifdef HANDFUL_ISA_AVX512
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int k = 0; k < n; k += 16) {
        const __mmask16 valid = mask_first(n - k).m;
        const __m512i m = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(valid, mask + k)), place = _mm512_add_epi32(lane, _mm512_set1_epi32(k));
        for (unsigned todo = alive; todo; todo &= todo - 1) {
            const int block = lowest_bit(todo);
            const __mmask16 touches = _mm512_test_epi32_mask(m, _mm512_set1_epi32(1 << block));
            _mm512_storeu_si512(list[block] + count[block], _mm512_maskz_compress_epi32(touches, place));
            count[block] += __builtin_popcount(touches);
        }
    }
#else
    for (int k = 0; k < n; ++k)
        for (unsigned m = mask[k] & alive; m; m &= m - 1) {
            const int block = lowest_bit(m);
            list[block][count[block]++] = k;
        }
#endif
}

// Fields of a block while a tile is composited, one after the other. kRun: product of all (1 - alpha), also behind the end; kT: transmittance, of what is drawn.
// Of surfels, depths count from kZ0, the first that was drawn, so that kZZ, the sum of w z^2, keeps what depths differ by.
enum ForwardField { kRun, kT, kR, kG, kB, kZ, kNx, kNy, kNz, kZZ, kZ0 };

enum Drawing { kPlain, kNormals, kSurfels };  // what a variant of the loops below draws; surfels have normals

// log2 of alpha before its cap
inline VF log_alpha(const Splat &s, VF dx, VF dy) {
    return fnma(dx, fma(set1(s.qa), dx, set1(s.qb) * dy), fnma(set1(s.qc) * dy, dy, set1(s.lop)));
}
// the same, and what the ray meets; of other splats only `e` is used
template <int DRAWING> inline Meeting meet_any(const Splat &s, VF dx, VF dy) {
    if constexpr (DRAWING == kSurfels) return meet(s, dx, dy);
    Meeting m = {};
    m.e = log_alpha(s, dx, dy);
    return m;
}
inline VF alpha_from_log(VF e) { return keep(e >= set1(kLog2AlphaMin), min(exp2(e), set1(kAlphaMax))); }

// Composites the listed splats onto the W pixels at f (fields kBlockPixels apart) with centres x, y; all state stays in registers. The product falls
// monotonically, so it alone says what is drawn, and the only chain from splat to splat is one multiplication. The long way from pixel to alpha is walked by
// three splats at once, a third each (list[count] and list[count + 1] must be readable). Returns how many were looked at before all pixels were done.
template <int DRAWING> inline int forward_pixels(const Splat *local, const int *list, int count, VF x, VF y, float *f, float *end_at) {
    VF run = load(f + kRun * kBlockPixels), t = load(f + kT * kBlockPixels), r = load(f + kR * kBlockPixels), g = load(f + kG * kBlockPixels);
    constexpr bool NORMAL = DRAWING != kPlain, SURFELS = DRAWING == kSurfels;
    VF b = load(f + kB * kBlockPixels), z = load(f + kZ * kBlockPixels), nx = zero(), ny = zero(), nz = zero(), zz = zero(), z0 = zero();
    if (SURFELS) zz = load(f + kZZ * kBlockPixels), z0 = load(f + kZ0 * kBlockPixels);
    if (NORMAL) nx = load(f + kNx * kBlockPixels), ny = load(f + kNy * kBlockPixels), nz = load(f + kNz * kBlockPixels);
    VF end = load(end_at);
    auto reach = [&](int j) { return meet_any<DRAWING>(local[list[j]], x - set1(local[list[j]].mx), y - set1(local[list[j]].my)); };
    Meeting now = reach(0), soon = reach(1);
    VF alpha = alpha_from_log(now.e);
    int j = 0;
    while (j < count && any(run >= set1(kTransmittanceMin))) {
        for (const int until = count - j < 8 ? count : j + 8; j < until; ++j) {
            const Meeting later = reach(j + 2);
            const VF next = alpha_from_log(soon.e);
            const Splat &s = local[list[j]];
            const VF before = run;
            run = attenuate(run, alpha);
            const VM drawn = run >= set1(kTransmittanceMin);
            const VF w = keep(drawn, alpha * before);
            t = select(drawn, run, t);
            end = raise(drawn, set1(s.order), end);
            r = fma(w, set1(s.r), r), g = fma(w, set1(s.g), g), b = fma(w, set1(s.b), b);
            if (SURFELS) {
                const VF depth = set1(s.z) * now.h;
                z0 = select((w > zero()) & (z0 == zero()), depth, z0);
                const VF behind = depth - z0, wz = w * behind;  // w = 0 where z0 is none yet
                z += wz, zz = fma(wz, behind, zz);
            } else z = fma(w, set1(s.z), z);
            if (NORMAL) nx = fma(w, set1(s.nx), nx), ny = fma(w, set1(s.ny), ny), nz = fma(w, set1(s.nz), nz);
            alpha = next, now = soon, soon = later;
        }
        run = max(run, set1(1e-12f));  // eight more factors of 1 - kAlphaMax keep it a normal number
    }
    store(f + kRun * kBlockPixels, run), store(f + kT * kBlockPixels, t);
    store(f + kR * kBlockPixels, r), store(f + kG * kBlockPixels, g), store(f + kB * kBlockPixels, b), store(f + kZ * kBlockPixels, z);
    if (NORMAL) store(f + kNx * kBlockPixels, nx), store(f + kNy * kBlockPixels, ny), store(f + kNz * kBlockPixels, nz);
    if (SURFELS) store(f + kZZ * kBlockPixels, zz), store(f + kZ0 * kBlockPixels, z0);
    store(end_at, end);
    return j;
}

template <int DRAWING>
inline void forward_tile(const Camera &cam, const Options &opt, const Splat *splats, Pairs pairs, int tile, PixelState state, Images out) {
    constexpr bool NORMAL = DRAWING != kPlain, SURFELS = DRAWING == kSurfels;
    constexpr int kFields = SURFELS ? 11 : NORMAL ? 9 : 6, kStride = kFields * kBlockPixels;
    alignas(64) float blocks[16 * kStride];
    alignas(64) Splat local[kBatch];
    alignas(64) int list[16][kBatch + 16], counts[16];
    float *final_T = state.transmittance + (size_t)tile * kTilePixels;
    float *end_of = state.end + (size_t)tile * kTilePixels;
    const int begin = (int)pairs.tile_begin[tile], end = (int)pairs.tile_begin[tile + 1], all = (int)pairs.tile_begin[cam.tiles_x * cam.tiles_y];
    const TileRect rect(cam, tile);
    memset(blocks, 0, sizeof blocks);
    for (int o = 0; o < kTilePixels; o += W) {
        float *f = blocks + o / kBlockPixels * kStride + o % kBlockPixels;
        VM inside = (load(kOffsets.x + o) < set1((float)rect.w)) & (load(kOffsets.y + o) < set1((float)rect.h));
        store(f + kRun * kBlockPixels, keep(inside, set1(1.0f))), store(f + kT * kBlockPixels, set1(1.0f));
        store(end_of + o, zero());
    }

    for (int batch = begin; batch < end; batch += kBatch) {
        const int n = end - batch < kBatch ? end - batch : kBatch;
        unsigned alive = 0;  // blocks with a pixel that still lets light through
        for (int block = 0; block < 16; ++block)
            for (int o = 0; o < kBlockPixels; o += W) alive |= (unsigned)any(load(blocks + block * kStride + kRun * kBlockPixels + o) >= set1(kTransmittanceMin)) << block;
        if (!alive) {
            memset(pairs.mask + batch, 0, sizeof(uint16_t) * (size_t)(end - batch));
            break;
        }
        for (int k = 0; k < n; ++k) {
            memcpy(&local[k], splats + pairs.at[batch + k].gaussian, sizeof(Splat));
            local[k].order = (float)(batch + k - begin + 1);
            pairs.mask[batch + k] &= (uint16_t)alive;
        }
        list_blocks(pairs.mask + batch, n, alive, list, counts);
        for (int block = 0; block < 16; ++block) list[block][counts[block]] = list[block][counts[block] + 1] = 0;
        int ahead = batch + n;  // the next batch's splats (often the next tile's) are fetched meanwhile
        for (; alive; alive &= alive - 1) {
            const int block = lowest_bit(alive);
            int seen = 0;
            for (const int until = ahead + kBatch / 16 < all ? ahead + kBatch / 16 : all; ahead < until; ++ahead) prefetch(splats + pairs.at[ahead].gaussian);
            for (int o = 0; o < kBlockPixels; o += W) {
                const int p = block * kBlockPixels + o;
                const VF x = load(kOffsets.x + p) + set1((float)rect.x0), y = load(kOffsets.y + p) + set1((float)rect.y0);
                const int s = forward_pixels<DRAWING>(local, list[block], counts[block], x, y, blocks + block * kStride + o, end_of + p);
                seen = s > seen ? s : seen;
            }
            for (; seen < counts[block]; ++seen) pairs.mask[batch + list[block][seen]] &= (uint16_t)~(1u << block);  // the backward pass skips them too
        }
    }

    for (int o = 0; o < kTilePixels; o += W) {
        float *f = blocks + o / kBlockPixels * kStride + o % kBlockPixels;
        VF t = load(f + kT * kBlockPixels), alpha = set1(1.0f) - t;
        VM some = alpha > zero();
        store(final_T + o, t);
        store(f + kT * kBlockPixels, alpha);
        VF z = keep(some, load(f + kZ * kBlockPixels) / select(some, alpha, set1(1.0f)));
        if (SURFELS) {
            // sum over all pairs of w w' (z - z')^2 = 2 alpha sum of w (z - depth)^2
            const VF apart = max(fnma(alpha * z, z, load(f + kZZ * kBlockPixels)), zero());
            store(f + kZZ * kBlockPixels, set1(2.0f) * alpha * apart);
            z += load(f + kZ0 * kBlockPixels);
        }
        store(f + kZ * kBlockPixels, z);
        for (int c = 0; c < 3; ++c) store(f + (kR + c) * kBlockPixels, fma(t, set1(opt.background[c]), load(f + (kR + c) * kBlockPixels)));
    }
    for_block_rows(cam, rect, [&](int block, int row, size_t pixel, int n) {
        const float *f = blocks + block * kStride + row * kBlock;
        interleave(f + kR * kBlockPixels, out.color + 3 * pixel, n);
        copy4(f + kT * kBlockPixels, out.alpha + pixel, n);
        copy4(f + kZ * kBlockPixels, out.depth + pixel, n);
        if (NORMAL) interleave(f + kNx * kBlockPixels, out.normal + 3 * pixel, n);
        if (SURFELS) copy4(f + kZZ * kBlockPixels, out.distortion + pixel, n);
    });
}

// Fields of a block on the way back. kBehind: dL/dchannel of what lies behind, per unit of light that gets there.
// kMean: the pixel's depth; kSpread: dL/d(distortion) twice alpha.
enum BackwardField { kX, kY, kThrough, kBehind, kEnd, kV0, kV1, kV2, kV3, kVn0, kVn1, kVn2, kMean, kSpread };

// The image gradients of a tile, as the loop below wants them.
template <int DRAWING>
inline void load_gradients(const Camera &cam, const Options &opt, const TileRect &rect, const float *final_T, const float *end_of, Drawn drawn,
                           ImageGrads in, float *blocks, int stride) {
    constexpr bool NORMAL = DRAWING != kPlain, SURFELS = DRAWING == kSurfels;
    for_block_rows(cam, rect, [&](int block, int row, size_t pixel, int n) {
        float *f = blocks + block * stride + row * kBlock;
        if (in.color) deinterleave(in.color + 3 * pixel, f + kV0 * kBlockPixels, n);
        if (in.alpha) copy4(in.alpha + pixel, f + kThrough * kBlockPixels, n);
        if (in.depth) copy4(in.depth + pixel, f + kV3 * kBlockPixels, n), copy4(drawn.depth + pixel, f + kBehind * kBlockPixels, n);
        if (NORMAL && in.normal) deinterleave(in.normal + 3 * pixel, f + kVn0 * kBlockPixels, n);
        if (SURFELS) copy4(drawn.depth + pixel, f + kMean * kBlockPixels, n);
        if (SURFELS && in.distortion) copy4(in.distortion + pixel, f + kSpread * kBlockPixels, n), copy4(drawn.distortion + pixel, f + kX * kBlockPixels, n);
    });
    for (int o = 0; o < kTilePixels; o += W) {
        float *f = blocks + o / kBlockPixels * stride + o % kBlockPixels;
        auto field = [&](int k) { return load(f + k * kBlockPixels); };
        const VF t = load(final_T + o), alpha = set1(1.0f) - t;
        const VM some = alpha > zero();
        // depth is sum(w z) / alpha: gradients of the sum and of alpha
        const VF v3 = keep(some, field(kV3) / select(some, alpha, set1(1.0f)));
        VF tail = fma(v3, field(kBehind), zero() - field(kThrough));  // dL / d(final transmittance)
        for (int c = 0; c < 3; ++c) tail = fma(field(kV0 + c), set1(opt.background[c]), tail);
        if (SURFELS) {  // the distortion's gradient to w is twice alpha (z - depth)^2, and the same for all: distortion / alpha
            tail = tail - keep(some, field(kSpread) * field(kX) / select(some, alpha, set1(1.0f)));
            store(f + kSpread * kBlockPixels, set1(2.0f) * alpha * field(kSpread));
        }
        store(f + kV3 * kBlockPixels, v3), store(f + kBehind * kBlockPixels, tail), store(f + kThrough * kBlockPixels, t);
        store(f + kX * kBlockPixels, load(kOffsets.x + o) + set1((float)rect.x0)), store(f + kY * kBlockPixels, load(kOffsets.y + o) + set1((float)rect.y0));
        store(f + kEnd * kBlockPixels, load(end_of + o));
    }
}

constexpr int kBackBatch = 64;

// Appends (place, offset of the vector in the blocks) of every vector of every block in the mask, as place << 16 | offset; returns the new end.
template <int STRIDE> inline int *list_vectors(unsigned mask, int place, int *out) {
#ifdef HANDFUL_ISA_AVX512
    const __m512i offset = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(STRIDE));
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi32((__mmask16)mask, _mm512_add_epi32(offset, _mm512_set1_epi32(place << 16))));
    return out + __builtin_popcount(mask);
#else
    for (; mask; mask &= mask - 1)
        for (int o = 0; o < kBlockPixels; o += W) *out++ = place << 16 | (lowest_bit(mask) * STRIDE + o);
    return out;
#endif
}

// Back to front; writes grads[slot] (kGrad floats) and hit[slot] of every pair that had drawn something.
//
// With u = sum over channels of dL/dchannel * value, one number per splat and pixel carries all channels; with `behind` the same of everything behind it, per
// unit of light, dL/dalpha = T (u - behind), and behind <- behind + alpha (u - behind) is the next one's. As in forward_pixels three vectors are under way.
template <int DRAWING>
inline void backward_tile(const Camera &cam, const Options &opt, const Splat *splats, Pairs pairs, int tile, PixelState state, Drawn drawn,
                          ImageGrads in, float *grads, uint8_t *hit_slot) {
    constexpr bool NORMAL = DRAWING != kPlain, SURFELS = DRAWING == kSurfels;
    constexpr int kStride = (SURFELS ? 14 : NORMAL ? 12 : 9) * kBlockPixels;
    alignas(64) float blocks[16 * kStride];
    alignas(64) Splat local[kBackBatch];
    alignas(64) int list[kBackBatch * 16 * (kBlockPixels / W) + 16];
    const int begin = (int)pairs.tile_begin[tile], end = (int)pairs.tile_begin[tile + 1];
    if (begin == end) return;
    memset(blocks, 0, sizeof blocks);
    load_gradients<DRAWING>(cam, opt, TileRect(cam, tile), state.transmittance + (size_t)tile * kTilePixels, state.end + (size_t)tile * kTilePixels, drawn, in,
                           blocks, kStride);

    struct Ahead {
        VF dx, dy;
        Meeting m;
    };
    auto reach = [&](int entry) {
        const Splat &s = local[entry >> 16];
        const float *f = blocks + (entry & 0xffff);
        const VF dx = load(f + kX * kBlockPixels) - set1(s.mx), dy = load(f + kY * kBlockPixels) - set1(s.my);
        return Ahead{dx, dy, meet_any<DRAWING>(s, dx, dy)};
    };
    auto alpha_of = [&](const Ahead &a, int entry) {
        const VM shown = (a.m.e >= set1(kLog2AlphaMin)) & (load(blocks + (entry & 0xffff) + kEnd * kBlockPixels) >= set1(local[entry >> 16].order));
        return keep(shown, min(exp2(a.m.e), set1(kAlphaMax)));
    };
    for (int batch_end = end; batch_end > begin; batch_end -= kBackBatch) {
        const int first = batch_end - kBackBatch > begin ? batch_end - kBackBatch : begin, n = batch_end - first;
        int *last = list;
        for (int k = n - 1; k >= 0; --k) {
            const unsigned mask = pairs.mask[first + k];
            if (!mask) continue;
            prefetch(grads + (size_t)pairs.at[first + k].slot * kGrad);
            memcpy(&local[k], splats + pairs.at[first + k].gaussian, sizeof(Splat));
            local[k].order = (float)(first + k - begin + 1);
            last = list_vectors<kStride>(mask, k, last);
        }
        if (last == list) continue;
        last[0] = last[1] = list[0];
        const int *entry = list;
        Ahead now = reach(entry[0]), next = reach(entry[1]);
        VF alpha = alpha_of(now, entry[0]);
        while (entry < last) {
            const int k = *entry >> 16;
            const Splat &s = local[k];
            VF g[kGrad];
            for (int i = 0; i < kGrad; ++i) g[i] = zero();
            do {
                const Ahead later = reach(entry[2]);
                const VF next_alpha = alpha_of(next, entry[1]);
                float *f = blocks + (*entry & 0xffff);
                auto field = [&](int i) { return load(f + i * kBlockPixels); };
                const VF t = field(kThrough) * rcp(set1(1.0f) - alpha), w = alpha * t, behind = field(kBehind);
                store(f + kThrough * kBlockPixels, t);
                const VF v0 = field(kV0), v1 = field(kV1), v2 = field(kV2), v3 = field(kV3);
                VF u, vz = v3;
                if (SURFELS) {
                    const VF depth = set1(s.z) * now.m.h, off = depth - field(kMean), spread = field(kSpread) * off;
                    u = fma(v3, depth, spread * off), vz = v3 + spread + spread;
                } else u = v3 * set1(s.z);
                u = fma(v0, set1(s.r), fma(v1, set1(s.g), fma(v2, set1(s.b), u)));
                g[kGr] = fma(w, v0, g[kGr]), g[kGg] = fma(w, v1, g[kGg]), g[kGb] = fma(w, v2, g[kGb]);
                if (!SURFELS) g[kGz] = fma(w, v3, g[kGz]);
                if (NORMAL) {
                    const VF n0 = field(kVn0), n1 = field(kVn1), n2 = field(kVn2);
                    u = fma(n0, set1(s.nx), fma(n1, set1(s.ny), fma(n2, set1(s.nz), u)));
                    g[kGnx] = fma(w, n0, g[kGnx]), g[kGny] = fma(w, n1, g[kGny]), g[kGnz] = fma(w, n2, g[kGnz]);
                }
                const VF d = u - behind;
                store(f + kBehind * kBlockPixels, fma(alpha, d, behind));
                const VF ga = keep(alpha < set1(kAlphaMax), w * d);  // the cap passes no gradient
                if (SURFELS) meeting_grad(s, now.m, now.dx, now.dy, ga, w * vz, g);
                else {
                    const VF gx = ga * now.dx, gy = ga * now.dy;
                    g[kG1] += ga, g[kGx] += gx, g[kGy] += gy;
                    g[kGxx] = fma(gx, now.dx, g[kGxx]), g[kGxy] = fma(gx, now.dy, g[kGxy]), g[kGyy] = fma(gy, now.dy, g[kGyy]);
                }
                alpha = next_alpha, now = next, next = later;
                ++entry;
            } while (*entry >> 16 == k && entry < last);
            if (first + k >= kBackBatch) prefetch(splats + pairs.at[first + k - kBackBatch].gaussian);
            const uint32_t slot = pairs.at[first + k].slot;
            reduce16(g, grads + (size_t)slot * kGrad);
            hit_slot[slot] = 1;
        }
    }
}

}  // namespace HANDFUL_NS
}  // namespace handful
