// Python sees numpy arrays; sizes are checked here, once.

#include "bindings.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "cpu.hpp"

namespace nb = nanobind;
namespace tv = weightsmith::task_vectors;

namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Writable = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bins = nb::ndarray<std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

}  // namespace

void bind_task_vectors(nb::module_& m) {
    m.def("count", [](Bins bins, Floats vector, std::int32_t upper) {
        if (bins.size() != 1 << 16) throw std::invalid_argument("there must be 65536 bins");
        nb::gil_scoped_release release;
        tv::count(bins.data(), vector.data(), vector.size(), upper);
    });
    m.def("trim", [](Writable vector, std::uint32_t threshold, std::size_t equal) {
        nb::gil_scoped_release release;
        return tv::trim(vector.data(), vector.size(), threshold, equal);
    });
    m.def("combine", [](Writable out, Rows vectors, Floats weights, bool elect, bool normalize) {
        if (vectors.shape(0) != weights.size() || vectors.shape(1) != out.size())
            throw std::invalid_argument("vectors, weights and result do not fit each other");
        nb::gil_scoped_release release;
        return tv::combine(out.data(), out.size(),
                           {vectors.data(), weights.data(), weights.size(), elect, normalize});
    });
    m.def("isas", &tv::isas);
    m.def("use_isa", &tv::use_isa);
}
