// Compiled with AVX-512 (F, BW, DQ, VL) switched on (CMakeLists.txt); only called where the processor has it.
#if defined(__x86_64__) || defined(_M_X64)
#define STEREO_TABLE kernels_avx512
#define STEREO_ISA "avx512"
#include "stereo_kernels.inl"
#endif
