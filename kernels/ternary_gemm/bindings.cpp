// Python sees arrays; shapes are checked here, once.

#include "bindings.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "cpu.hpp"

namespace nb = nanobind;

namespace weightsmith::ternary {
namespace {

template <typename T, typename... More>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu, More...>;
using S = const std::string&;

void require(bool fits, const char* what) {
    if (!fits) throw std::invalid_argument(what);
}

// The shape alone; the pointers are null.
Planes shape_of(std::size_t rows, std::size_t inputs, std::size_t span, int planes) {
    require(rows > 0 && inputs > 0, "a matrix without rows or columns");
    require(span == 32 || span == 64 || span == 128, "a span is 32, 64 or 128 inputs");
    require(planes >= 1 && planes <= 3, "there are 1, 2 or 3 planes");
    return {nullptr, nullptr, rows, inputs, span, planes};
}

Planes planes_of(const Array<const std::uint8_t>& codes, const Array<const std::int16_t>& scales,
                 std::size_t rows, std::size_t inputs, std::size_t span, int planes) {
    Planes w = shape_of(rows, inputs, span, planes);
    require(codes.size() == w.blocks() * w.strips() * planes * 64, "codes do not fit the shape");
    require(scales.size() == w.blocks() * w.spans() * planes * 8, "scales do not fit the shape");
    w.codes = codes.data();
    w.scales = reinterpret_cast<const std::uint16_t*>(scales.data());
    return w;
}

std::size_t packed_size(const Planes& w, std::size_t group) {
    require(group > 0 && group % w.span == 0, "a group is a whole number of spans");
    return w.rows * w.planes * (ceil_div(w.inputs, 5) + 2 * ceil_div(w.inputs, group));
}

template <typename Weights>
void multiply(const Weights& w, const Array<const float, nb::ndim<2>>& x,
              const Array<float, nb::ndim<2>>& y, S act, unsigned threads) {
    require(x.shape(1) == w.inputs, "x does not have the weights' number of inputs");
    require(y.shape(0) == x.shape(0) && y.shape(1) == w.rows, "y does not fit x and the weights");
    const Activation activation = parse_activation(act);
    nb::gil_scoped_release release;
    linear(w, x.data(), x.shape(0), activation, y.data(), threads);
}

}  // namespace

void bind(nb::module_& parent) {
    nb::module_ m = parent.def_submodule("ternary");
    m.def("linear", [](Array<const float, nb::ndim<2>> x, Array<const std::uint8_t> codes,
                       Array<const std::int16_t> scales, std::size_t span, int planes,
                       Array<float, nb::ndim<2>> y, S act, unsigned threads) {
        multiply(planes_of(codes, scales, y.shape(1), x.shape(1), span, planes), x, y, act,
                 threads);
    });
    m.def("linear_rows", [](Array<const float, nb::ndim<2>> x,
                            Array<const std::int8_t, nb::ndim<2>> values,
                            Array<const std::int16_t, nb::ndim<1>> scales,
                            Array<float, nb::ndim<2>> y, S act, unsigned threads) {
        require(scales.size() == values.shape(0), "scales do not fit the rows");
        const Rows w{values.data(), reinterpret_cast<const std::uint16_t*>(scales.data()),
                     values.shape(0), values.shape(1)};
        multiply(w, x, y, act, threads);
    });
    m.def("dequantize", [](Array<const std::uint8_t> codes, Array<const std::int16_t> scales,
                           std::size_t rows, std::size_t span, int planes, std::size_t first,
                           Array<float, nb::ndim<2>> out, unsigned threads) {
        const Planes w = planes_of(codes, scales, rows, out.shape(1), span, planes);
        require(first % block_rows == 0 && first + out.shape(0) <= rows,
                "rows out of range, or not from the start of a block");
        nb::gil_scoped_release release;
        dequantize(w, first, out.shape(0), out.data(), threads);
    });
    m.def("expand", [](Array<const std::uint8_t> packed, std::size_t rows, std::size_t inputs,
                       std::size_t group, std::size_t span, int planes,
                       Array<std::uint8_t> codes, Array<std::int16_t> scales) {
        const Planes shape =
            planes_of(Array<const std::uint8_t>(codes), Array<const std::int16_t>(scales), rows,
                      inputs, span, planes);
        require(packed.size() == packed_size(shape, group), "packed rows do not fit the shape");
        nb::gil_scoped_release release;
        expand(packed.data(), shape, group, codes.data(),
               reinterpret_cast<std::uint16_t*>(scales.data()));
    });
    m.def("fold", [](Array<const std::uint8_t> codes, Array<const std::int16_t> scales,
                     std::size_t rows, std::size_t inputs, std::size_t group, std::size_t span,
                     int planes, Array<std::uint8_t> packed) {
        const Planes w = planes_of(codes, scales, rows, inputs, span, planes);
        require(packed.size() == packed_size(w, group), "packed rows do not fit the shape");
        nb::gil_scoped_release release;
        fold(w, group, packed.data());
    });
    m.def("touch", [](Array<const std::uint8_t> data) {
        nb::gil_scoped_release release;
        return touch(data.data(), data.size());
    });
    m.def("paths", &paths);
    m.def("use_path", &use_path);
}

}  // namespace weightsmith::ternary
