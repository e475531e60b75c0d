// The kernels compiled for AVX512 (flags in CMakeLists.txt).
#include "kernels.h"
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)  // else: as in isa_avx2.cpp
#define HANDFUL_ISA_AVX512
#define HANDFUL_NS avx512
#define HANDFUL_NAME "avx512"
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
const handful::Kernels *handful::kernels_avx512() { return &handful::avx512::table; }
#else
const handful::Kernels *handful::kernels_avx512() { return nullptr; }
#endif
