#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_stereo(nb::module_ &) {}
