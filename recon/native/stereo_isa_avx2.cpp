// Compiled with AVX2 and FMA switched on (CMakeLists.txt); only called where the processor has them.
#if defined(__x86_64__) || defined(_M_X64)
#define STEREO_TABLE kernels_avx2
#define STEREO_ISA "avx2"
#include "stereo_kernels.inl"
#endif
