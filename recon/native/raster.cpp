#include "raster.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "parallel.h"

namespace handful {

static double now_ms() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Neighbouring tiles go to one worker, one after the other: while a tile is drawn the next one's splats are fetched.
constexpr int kGroup = 4;
static int64_t groups(int tiles) { return (tiles + kGroup - 1) / kGroup; }

Camera make_camera(const float *E, const float *K, int width, int height) {
    Camera c{};
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) c.R[3 * i + j] = E[4 * i + j];
        c.t[i] = E[4 * i + 3];
    }
    for (int j = 0; j < 3; ++j) c.center[j] = -(c.R[j] * c.t[0] + c.R[3 + j] * c.t[1] + c.R[6 + j] * c.t[2]);
    c.fx = K[0], c.cx = K[2], c.fy = K[4], c.cy = K[5];
    const float mx = kFovMargin * 0.5f * (float)width / c.fx, my = kFovMargin * 0.5f * (float)height / c.fy;
    c.lim_x_neg = c.cx / c.fx + mx, c.lim_x_pos = ((float)width - c.cx) / c.fx + mx;
    c.lim_y_neg = c.cy / c.fy + my, c.lim_y_pos = ((float)height - c.cy) / c.fy + my;
    c.width = width, c.height = height;
    c.tiles_x = (width + kTile - 1) / kTile, c.tiles_y = (height + kTile - 1) / kTile;
    return c;
}

void render_forward(const Scene &scene, const Camera &cam, const Options &opt, int threads, Images out, float *means2d, float *radii, View &view) {
    const Kernels &k = kernels();
    const int tiles = cam.tiles_x * cam.tiles_y;
    project_and_bin(scene, cam, opt, threads, means2d, radii, view.projection, view.binned);
    double t0 = now_ms();
    Binned &b = view.binned;
    b.transmittance = Array<float>((size_t)tiles * kTilePixels);
    b.end = Array<float>((size_t)tiles * kTilePixels);
    Pairs pairs{b.pairs.data, b.mask.data, b.tile_begin.data};
    PixelState state{b.transmittance.data, b.end.data};
    parallel_for(threads, groups(tiles), [&](int64_t group, int) {
        for (int tile = (int)group * kGroup, end = std::min(tiles, tile + kGroup); tile < end; ++tile)
            k.forward_tile(cam, opt, view.projection.splats.data, pairs, tile, state, out);
    });
    stage_times().forward = now_ms() - t0;
}

// Chunk sums, in order, to the gradients of cam_from_world and K; the centre is -R^T t.
static void camera_grad(const Camera &cam, const std::vector<float> &chunks, float *v_E, float *v_K) {
    double g[kCamGrad] = {};
    for (size_t i = 0; i < chunks.size(); ++i) g[i % kCamGrad] += chunks[i];
    std::memset(v_E, 0, 16 * sizeof(float));
    std::memset(v_K, 0, 9 * sizeof(float));
    for (int i = 0; i < 3; ++i) {
        double v_t = g[kCamT + i];
        for (int j = 0; j < 3; ++j) {
            v_E[4 * i + j] = (float)(g[kCamR + 3 * i + j] - cam.t[i] * g[kCamCenter + j]);
            v_t -= cam.R[3 * i + j] * g[kCamCenter + j];
        }
        v_E[4 * i + 3] = (float)v_t;
    }
    v_K[0] = (float)g[kCamK], v_K[4] = (float)g[kCamK + 1], v_K[2] = (float)g[kCamK + 2], v_K[5] = (float)g[kCamK + 3];
}

void render_backward(const Scene &scene, const Camera &cam, const Options &opt, int threads, const View &view, Drawn drawn, ImageGrads in,
                     SceneGrads out, float *v_E, float *v_K) {
    const Kernels &k = kernels();
    const int tiles = cam.tiles_x * cam.tiles_y;
    const Binned &b = view.binned;
    double t0 = now_ms();
    Array<float> pair_grads((size_t)view.projection.pairs * kGrad);
    Array<uint8_t> hit(view.projection.pairs);
    std::memset(hit.data, 0, hit.size);
    Pairs pairs{b.pairs.data, b.mask.data, b.tile_begin.data};
    PixelState state{b.transmittance.data, b.end.data};
    parallel_for(threads, groups(tiles), [&](int64_t group, int) {
        for (int first = (int)group * kGroup, tile = std::min(tiles, first + kGroup) - 1; tile >= first; --tile)
            k.backward_tile(cam, opt, view.projection.splats.data, pairs, tile, state, drawn, in, pair_grads.data, hit.data);
    });
    double t1 = now_ms();
    const int64_t chunk_count = (scene.n + kChunk - 1) / kChunk;
    std::vector<float> cam_grads((size_t)chunk_count * kCamGrad);
    out.camera = v_E != nullptr;
    parallel_for(threads, chunk_count, [&](int64_t c, int) {
        int64_t begin = c * kChunk, end = begin + kChunk < scene.n ? begin + kChunk : scene.n;
        k.project_grad(scene, cam, opt, view.projection.splats.data, view.projection.slot_begin.data, hit.data, pair_grads.data, begin, end, out,
                       cam_grads.data() + c * kCamGrad);
    });
    if (v_E) camera_grad(cam, cam_grads, v_E, v_K);
    stage_times().backward = t1 - t0, stage_times().project_grad = now_ms() - t1;
}

}  // namespace handful
