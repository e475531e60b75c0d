// The Python module. Each concern declares its own functions in a bind_*.cpp.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_raster(nb::module_ &m);
void bind_image(nb::module_ &m);
void bind_stereo(nb::module_ &m);
void bind_fill(nb::module_ &m);
void bind_field(nb::module_ &m);
void bind_field_points(nb::module_ &m);

NB_MODULE(_native, m) {
    m.doc() = "Handful's compiled kernels (see recon/kernels.py).";
    bind_raster(m);
    bind_image(m);
    bind_stereo(m);
    bind_fill(m);
    bind_field(m);
    bind_field_points(m);
}
