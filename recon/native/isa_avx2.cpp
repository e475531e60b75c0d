// The kernels compiled for AVX2 (flags in CMakeLists.txt).
#include "kernels.h"
#if defined(__AVX2__) && defined(__FMA__)  // else: another architecture, or a compiler without the flags
#define HANDFUL_ISA_AVX2
#define HANDFUL_NS avx2
#define HANDFUL_NAME "avx2"
#include "simd.h"
#include "kernels_sh.h"
#include "kernels_geometry.h"
#include "kernels_surfel.h"
#include "kernels_project.h"
#include "kernels_project_grad.h"
#include "kernels_composite.h"
#include "kernels_loss.h"
#include "kernels_adam.h"
#include "kernels_vm.h"
#include "kernels_trivec.h"
#include "kernels_field.h"
#include "kernels_field_points.h"
#include "kernels_table.h"
const handful::Kernels *handful::kernels_avx2() { return &handful::avx2::table; }
#else
const handful::Kernels *handful::kernels_avx2() { return nullptr; }
#endif
