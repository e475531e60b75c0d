#include "binning.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "parallel.h"

namespace handful {

StageTimes &stage_times() {
    static thread_local StageTimes times{};
    return times;
}

static double now_ms() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

namespace {

// A worker's pair buffer: room for as many as it last turned out to need, out of the pool.
struct OwnedPairs : PairBuffer {
    Array<uint32_t> tiles;
    Array<uint16_t> masks;
    OwnedPairs() : PairBuffer{nullptr, nullptr, 0, 0} {}
    void reserve(size_t n) {
        Array<uint32_t> t(n);
        Array<uint16_t> m(n);
        if (size) std::memcpy(t.data, tile, size * sizeof *tile), std::memcpy(m.data, mask, size * sizeof *mask);
        tiles = std::move(t), masks = std::move(m);
        tile = tiles.data, mask = masks.data, capacity = n;
    }
};
std::atomic<size_t> usual_pairs{0};

}  // namespace

void grow(PairBuffer &b, size_t extra) {
    const size_t least = b.size + extra, usual = usual_pairs.load(std::memory_order_relaxed);
    static_cast<OwnedPairs &>(b).reserve(least < usual ? usual : least + least / 2 + 4096);
}

namespace {

struct Chunk {
    int worker;
    size_t first;       // in the worker's buffer
    uint32_t visible;   // how many of its Gaussians
    uint32_t sorted_at; // its first place among all visible
    uint32_t slot;      // its first slot
};

// Stable least-significant-digit radix sort of (key, id) by the bits in which the keys differ. Each worker counts and then moves a contiguous part.
void radix_sort(int threads, uint32_t count, uint32_t *&key, uint32_t *&id, uint32_t *&key2, uint32_t *&id2) {
    constexpr int kBits = 11, kBuckets = 1 << kBits;
    if (count < 2) return;
    if (count < 8192) threads = 1;
    uint32_t all_or = 0, all_and = ~0u;
    for (uint32_t i = 0; i < count; ++i) all_or |= key[i], all_and &= key[i];
    uint32_t differ = all_or ^ all_and;
    std::vector<uint32_t> counts((size_t)threads * kBuckets);
    for (int shift = 0; shift < 32; shift += kBits) {
        if (!(differ >> shift & (kBuckets - 1))) continue;
        auto part = [&](int64_t t) { return (uint32_t)((uint64_t)count * (uint64_t)t / (uint64_t)threads); };
        parallel_for(threads, threads, [&](int64_t t, int) {
            uint32_t *c = counts.data() + t * kBuckets;
            std::memset(c, 0, kBuckets * sizeof *c);
            for (uint32_t i = part(t), e = part(t + 1); i < e; ++i) ++c[key[i] >> shift & (kBuckets - 1)];
        });
        uint32_t sum = 0;
        for (int b = 0; b < kBuckets; ++b)
            for (int t = 0; t < threads; ++t) {
                uint32_t &c = counts[(size_t)t * kBuckets + b], n = c;
                c = sum;
                sum += n;
            }
        parallel_for(threads, threads, [&](int64_t t, int) {
            uint32_t *c = counts.data() + t * kBuckets;
            for (uint32_t i = part(t), e = part(t + 1); i < e; ++i) {
                uint32_t to = c[key[i] >> shift & (kBuckets - 1)]++;
                key2[to] = key[i], id2[to] = id[i];
            }
        });
        std::swap(key, key2);
        std::swap(id, id2);
    }
}

// Lists every tile's pairs in the order of `sorted`: each worker counts a contiguous part of it, then fills the places that these counts leave it.
void fill_tiles(int threads, int tiles, const uint32_t *sorted, uint32_t visible, const std::vector<Chunk> &chunks, const std::vector<OwnedPairs> &buffers,
                const Projection &p, Binned &b) {
    if (p.pairs < 16384) threads = 1;
    Array<uint32_t> cursor((size_t)threads * tiles);
    auto part = [&](int64_t t) { return (uint32_t)((uint64_t)visible * (uint64_t)t / (uint64_t)threads); };
    auto source = [&](uint32_t g) {  // index in the worker's buffer of the Gaussian's first pair
        const Chunk &c = chunks[g / kChunk];
        return c.first + (p.slot_begin[g] - c.slot);
    };
    auto fetch = [&](uint32_t r, bool masks) {  // depth order is random order in memory: ask early, first for the place, then for what is there
        if (r + 32 < visible) __builtin_prefetch(&p.slot_begin[sorted[r + 32]]);
        if (r + 16 >= visible) return;
        const uint32_t g = sorted[r + 16];
        const PairBuffer &from = buffers[(size_t)chunks[g / kChunk].worker];
        __builtin_prefetch(from.tile + source(g));
        if (masks) __builtin_prefetch(from.mask + source(g));
    };
    parallel_for(threads, threads, [&](int64_t t, int) {
        uint32_t *count = cursor.data + t * tiles;
        std::memset(count, 0, sizeof *count * (size_t)tiles);
        for (uint32_t r = part(t), e = part(t + 1); r < e; ++r) {
            fetch(r, false);
            uint32_t g = sorted[r], n = p.slot_begin[g + 1] - p.slot_begin[g];
            const uint32_t *tile = buffers[(size_t)chunks[g / kChunk].worker].tile + source(g);
            for (uint32_t k = 0; k < n; ++k) ++count[tile[k]];
        }
    });
    uint32_t sum = 0, before = 0;
    for (int tile = 0; tile < tiles; ++tile) {
        b.tile_begin[(size_t)tile] = before = sum;
        for (int t = 0; t < threads; ++t) {
            uint32_t &c = cursor[(size_t)t * tiles + tile], n = c;
            c = sum;
            sum += n;
        }
        if (sum - before > kTilePairs) throw std::length_error("more than 2^24 Gaussians over one tile");
    }
    b.tile_begin[(size_t)tiles] = sum;
    parallel_for(threads, threads, [&](int64_t t, int) {
        uint32_t *at = cursor.data + t * tiles;
        for (uint32_t r = part(t), e = part(t + 1); r < e; ++r) {
            fetch(r, true);
            uint32_t g = sorted[r], slot = p.slot_begin[g], n = p.slot_begin[g + 1] - slot;
            const PairBuffer &from = buffers[(size_t)chunks[g / kChunk].worker];
            size_t s = source(g);
            for (uint32_t k = 0; k < n; ++k) {
                uint32_t to = at[from.tile[s + k]]++;
                b.pairs[to] = {g, slot + k}, b.mask[to] = from.mask[s + k];
            }
        }
    });
}

}  // namespace

void project_and_bin(const Scene &scene, const Camera &cam, const Options &opt, int threads, float *means2d, float *radii, Projection &p, Binned &b) {
    const Kernels &k = kernels();
    const size_t n = (size_t)scene.n;
    const int tiles = cam.tiles_x * cam.tiles_y;
    const int64_t chunk_count = (scene.n + kChunk - 1) / kChunk;
    double t0 = now_ms();
    p.splats = Array<Splat>(n);
    p.slot_begin = Array<uint32_t>(n + 1);
    Array<uint32_t> memory(4 * n);
    uint32_t *keys = memory.data, *ids = keys + n, *keys2 = ids + n, *ids2 = keys2 + n;
    std::vector<Chunk> chunks((size_t)chunk_count);
    std::vector<OwnedPairs> buffers((size_t)threads);
    parallel_for(threads, chunk_count, [&](int64_t c, int worker) {
        int64_t begin = c * kChunk, end = begin + kChunk < scene.n ? begin + kChunk : scene.n;
        PairBuffer &buffer = buffers[(size_t)worker];
        size_t first = buffer.size;
        ProjectOut out{p.splats.data, means2d, radii, p.slot_begin.data, keys2, ids2, 0};
        k.project(scene, cam, opt, begin, end, out, buffer);
        chunks[(size_t)c] = {worker, first, (uint32_t)out.visible, 0, (uint32_t)(buffer.size - first)};
    });
    uint64_t visible = 0, pairs = 0;
    for (auto &c : chunks) {
        uint64_t count = c.slot;
        c.sorted_at = (uint32_t)visible, c.slot = (uint32_t)pairs;
        visible += c.visible, pairs += count;
    }
    if (pairs > 0x7fffffffu) throw std::length_error("more than 2^31 pairs of Gaussian and tile");
    p.visible = (uint32_t)visible, p.pairs = (uint32_t)pairs;
    size_t most = 0;
    for (auto &o : buffers) most = o.size > most ? o.size : most;
    usual_pairs.store(most + most / 8, std::memory_order_relaxed);
    double t1 = now_ms();
    // counts to places, and the visible of all chunks side by side
    parallel_for(threads, chunk_count, [&](int64_t c, int) {
        const Chunk &chunk = chunks[(size_t)c];
        size_t begin = (size_t)c * kChunk, end = begin + kChunk < n ? begin + kChunk : n;
        uint32_t slot = chunk.slot;
        for (size_t i = begin; i < end; ++i) {
            uint32_t count = p.slot_begin[i];
            p.slot_begin[i] = slot;
            slot += count;
        }
        std::memcpy(keys + chunk.sorted_at, keys2 + begin, chunk.visible * sizeof *keys);
        std::memcpy(ids + chunk.sorted_at, ids2 + begin, chunk.visible * sizeof *ids);
    });
    p.slot_begin[n] = p.pairs;
    radix_sort(threads, p.visible, keys, ids, keys2, ids2);
    double t2 = now_ms();
    b.tile_begin = Array<uint32_t>((size_t)tiles + 1);
    b.pairs = Array<Pair>(p.pairs);
    b.mask = Array<uint16_t>(p.pairs);
    fill_tiles(threads, tiles, ids, p.visible, chunks, buffers, p, b);
    double t3 = now_ms();
    StageTimes &times = stage_times();
    times.project = t1 - t0, times.sort = t2 - t1, times.bin = t3 - t2;
}

}  // namespace handful
