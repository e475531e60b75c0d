// The kernels compiled for what every processor of the architecture has.
#if defined(__x86_64__) || defined(_M_X64)
#define HANDFUL_ISA_SSE2
#define HANDFUL_NAME "sse2"
#elif defined(__aarch64__) || defined(_M_ARM64)
#define HANDFUL_ISA_NEON
#define HANDFUL_NAME "neon"
#else
#define HANDFUL_NAME "scalar"
#endif
#define HANDFUL_NS base
#include "kernels.h"
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
const handful::Kernels *handful::kernels_base() { return &handful::base::table; }
