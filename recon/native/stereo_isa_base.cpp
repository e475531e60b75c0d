#define STEREO_TABLE kernels_base
#define STEREO_ISA "base"
#include "stereo_kernels.inl"
