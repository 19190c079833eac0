// Python sees a float64 array and a float32 block; shapes are checked here, once.

#include "bindings.hpp"

#include <nanobind/ndarray.h>

#include <stdexcept>

#include "cpu.hpp"

namespace nb = nanobind;
namespace sg = weightsmith::sliced_gram;

namespace {

using Gram = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Block = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

double add(Gram gram, Block block, bool by_rows, unsigned threads) {
    const std::size_t vectors = block.shape(by_rows ? 0 : 1);
    if (gram.shape(0) != vectors || gram.shape(1) != vectors)
        throw std::invalid_argument("shapes do not fit a Gram product");
    if (!sg::available()) throw std::invalid_argument("this CPU has no matrix unit");
    nb::gil_scoped_release release;
    return sg::add(gram.data(), {block.data(), vectors, block.shape(by_rows ? 1 : 0), by_rows},
                   threads);
}

}  // namespace

void bind_sliced_gram(nb::module_& m) {
    m.def("available", &sg::available);
    m.def("add", &add);
}
