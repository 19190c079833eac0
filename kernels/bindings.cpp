// Python sees buffers of bytes and names of dtypes; sizes are checked here, once.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <stdexcept>

#include "draws/bindings.hpp"
#include "elementwise/cpu.hpp"
#include "low_rank/bindings.hpp"
#include "sliced_gram/bindings.hpp"
#include "task_vectors/bindings.hpp"
#include "ternary_gemm/bindings.hpp"
#include "trit_fit/bindings.hpp"

namespace nb = nanobind;
namespace ew = weightsmith::elementwise;

namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Writable = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

struct Operand {
    const Bytes& bytes;
    const std::string& dtype;
};

template <std::size_t arity>
std::size_t compute(ew::Formula formula, Writable& out, const std::string& out_dtype,
                    const Operand (&operands)[arity], std::array<float, 2> coefficients) {
    const ew::Output target{out.data(), ew::parse_dtype(out_dtype)};
    const std::size_t size = ew::width(target.dtype), n = out.size() / size;
    bool fits = out.size() == n * size;
    ew::Input inputs[arity];
    for (std::size_t k = 0; k < arity; ++k) {
        inputs[k] = {operands[k].bytes.data(), ew::parse_dtype(operands[k].dtype)};
        fits = fits && operands[k].bytes.size() == n * ew::width(inputs[k].dtype);
    }
    if (!fits) throw std::invalid_argument("buffers have different numbers of elements");
    nb::gil_scoped_release release;
    return ew::compute(formula, target, n, inputs, coefficients.data());
}

}  // namespace

NB_MODULE(_native, m) {
    using S = const std::string&;

    m.def("cast", [](Writable out, S out_dtype, Bytes a, S a_dtype) {
        return compute(ew::Formula::cast, out, out_dtype, {{a, a_dtype}}, {});
    });
    m.def("difference", [](Writable out, S out_dtype, Bytes a, S a_dtype, Bytes b, S b_dtype) {
        return compute(ew::Formula::difference, out, out_dtype, {{a, a_dtype}, {b, b_dtype}}, {});
    });
    m.def("axpy", [](Writable out, S out_dtype, Bytes a, S a_dtype, float scale, Bytes x, S x_dtype) {
        return compute(ew::Formula::axpy, out, out_dtype, {{a, a_dtype}, {x, x_dtype}}, {scale});
    });
    m.def("graft", [](Writable out, S out_dtype, Bytes instruct, S instruct_dtype, float scale,
                      Bytes tuned, S tuned_dtype, Bytes base, S base_dtype) {
        return compute(ew::Formula::graft, out, out_dtype,
                       {{instruct, instruct_dtype}, {tuned, tuned_dtype}, {base, base_dtype}},
                       {scale});
    });
    m.def("lerp", [](Writable out, S out_dtype, float weight_a, Bytes a, S a_dtype, float weight_b,
                     Bytes b, S b_dtype) {
        return compute(ew::Formula::lerp, out, out_dtype, {{a, a_dtype}, {b, b_dtype}},
                       {weight_a, weight_b});
    });
    m.def("products", [](Bytes a, S a_dtype, Bytes b, S b_dtype) {
        const ew::Input x{a.data(), ew::parse_dtype(a_dtype)}, y{b.data(), ew::parse_dtype(b_dtype)};
        const std::size_t n = a.size() / ew::width(x.dtype);
        if (a.size() != n * ew::width(x.dtype) || b.size() != n * ew::width(y.dtype))
            throw std::invalid_argument("buffers have different numbers of elements");
        nb::gil_scoped_release release;
        const ew::Products found = ew::products(n, x, y);
        return std::array<double, 3>{found.aa, found.ab, found.bb};
    });
    m.def("xor", [](Writable out, Bytes a, Bytes b) {
        if (out.size() != a.size() || out.size() != b.size())
            throw std::invalid_argument("buffers have different sizes");
        nb::gil_scoped_release release;
        ew::exclusive_or(out.data(), a.data(), b.data(), out.size());
    });
    m.def("count_nonfinite", [](Bytes a, S dtype) {
        const ew::Specials specials = ew::parse_specials(dtype);
        const std::size_t n = a.size() / specials.width;
        if (a.size() != n * specials.width)
            throw std::invalid_argument("buffer does not end on an element");
        nb::gil_scoped_release release;
        const ew::Nonfinite found = ew::count_nonfinite(a.data(), n, specials);
        return std::pair(found.nan, found.infinite);
    });
    m.def("isas", &ew::isas);
    m.def("use_isa", &ew::use_isa);

    nb::module_ draws = m.def_submodule("draws");
    bind_draws(draws);
    nb::module_ low_rank = m.def_submodule("low_rank");
    bind_low_rank(low_rank);
    nb::module_ sliced_gram = m.def_submodule("sliced_gram");
    bind_sliced_gram(sliced_gram);
    nb::module_ task_vectors = m.def_submodule("task_vectors");
    bind_task_vectors(task_vectors);
    nb::module_ trit_fit = m.def_submodule("trit_fit");
    bind_trit_fit(trit_fit);
    nb::module_ ternary_gemm = m.def_submodule("ternary_gemm");
    bind_ternary_gemm(ternary_gemm);
}
