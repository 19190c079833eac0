// Python sees float32 arrays of rows and columns; shapes are checked here, once.

#include "bindings.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "cpu.hpp"

namespace nb = nanobind;
namespace lr = weightsmith::low_rank;

namespace {

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Target = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void product(Target out, Matrix left, Matrix right, float scale) {
    if (left.shape(1) != right.shape(0) || out.shape(0) != left.shape(0) ||
        out.shape(1) != right.shape(1))
        throw std::invalid_argument("shapes do not fit a product");
    nb::gil_scoped_release release;
    lr::product(out.data(),
                {left.data(), right.data(), left.shape(0), left.shape(1), right.shape(1)}, scale);
}

}  // namespace

void bind_low_rank(nb::module_& m) {
    m.def("product", &product);
    m.def("isas", &lr::isas);
    m.def("use_isa", &lr::use_isa);
}
