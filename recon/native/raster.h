// One camera's image and its gradient, from raw Gaussians.
#pragma once
#include "binning.h"

namespace handful {

struct View {  // what the backward pass needs of a forward pass
    Projection projection;
    Binned binned;
    int64_t gaussians = 0;  // of the scene it was made of, and the size of its images: a backward pass must bring the same
    int width = 0, height = 0;
};

Camera make_camera(const float *cam_from_world, const float *K, int width, int height);

void render_forward(const Scene &, const Camera &, const Options &, int threads, Images, float *means2d, float *radii, View &);

// drawn: the images the forward pass wrote. Camera gradients: v_cam_from_world 4,4 and v_K 3,3, or null.
void render_backward(const Scene &, const Camera &, const Options &, int threads, const View &, Drawn, ImageGrads, SceneGrads,
                     float *v_cam_from_world, float *v_K);

}  // namespace handful
