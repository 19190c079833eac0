// Python sees numpy arrays of rows and columns.

#include "bindings.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "cpu.hpp"

namespace nb = nanobind;
namespace dr = weightsmith::draws;

namespace {

template <typename T, void (*fill)(T*, dr::Position)>
void draw(nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu> out, std::uint64_t key,
          std::uint64_t first_row) {
    nb::gil_scoped_release release;
    fill(out.data(), {key, first_row, out.shape(0), out.shape(1)});
}

}  // namespace

void bind_draws(nb::module_& m) {
    m.def("draw_bits", &draw<std::uint32_t, dr::bits>);
    m.def("draw_normals", &draw<float, dr::normals>);
    m.def("isas", &dr::isas);
    m.def("use_isa", &dr::use_isa);
}
