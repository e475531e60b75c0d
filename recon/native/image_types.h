// What the image loss and the optimiser hand to their kernels (see simd.h for what may stand here).
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace handful {

struct LossJob {
    const float *pred, *target;  // height,width,3
    const float *weight;         // height,width or null
    int width, height;
    float l1_scale, ssim_scale;  // factors of the gradient
};

struct AdamJob {
    float *param, *exp_avg, *exp_avg_sq;
    const float *grad;
    const uint8_t *visible;  // per row, or null
    int row;                 // floats
    float lr;                // already divided by the first moment's correction
    const float *column_lr;  // instead of lr: row + 16 floats, the row's pattern repeated; or null
    float beta1, beta2, eps;
    float inv_sqrt_correction2;  // 1 / sqrt(1 - beta2^step)
};

}  // namespace handful
