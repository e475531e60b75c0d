#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_image(nb::module_ &) {}
