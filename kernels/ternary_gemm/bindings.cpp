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

template <typename... Traits>
using Array = nb::ndarray<nb::c_contig, nb::device::cpu, Traits...>;
using S = const std::string&;

// float16, or float32 where the scales of tied planes are no float16; as integers, which no cast of
// a model to another dtype can hurt.
using Scales = Array<>;

void require(bool fits, const char* what) {
    if (!fits) throw std::invalid_argument(what);
}

// The shape alone; the pointers are null.
Planes shape_of(std::size_t rows, std::size_t inputs, std::size_t span, int planes) {
    require(rows > 0 && inputs > 0, "a matrix without rows or columns");
    require(span == 32 || span == 64 || span == 128, "a span is 32, 64 or 128 inputs");
    require(planes >= 1 && planes <= 3, "there are 1, 2 or 3 planes");
    return {nullptr, nullptr, false, rows, inputs, span, planes};
}

std::size_t code_bytes(const Planes& w) { return w.blocks() * w.strips() * w.planes * 64; }

Planes planes_of(const Array<const std::uint8_t>& codes, const Scales& scales,
                 std::size_t rows, std::size_t inputs, std::size_t span, int planes) {
    Planes w = shape_of(rows, inputs, span, planes);
    require(codes.size() == code_bytes(w), "codes do not fit the shape");
    require(scales.size() == w.blocks() * w.spans() * planes * 8, "scales do not fit the shape");
    w.codes = codes.data();
    w.wide = scales.dtype() == nb::dtype<std::int32_t>();
    require(w.wide || scales.dtype() == nb::dtype<std::int16_t>(), "scales are int16 or int32");
    w.scales = scales.data();
    return w;
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

}  // namespace weightsmith::ternary

void bind_ternary_gemm(nb::module_& m) {
    using namespace weightsmith::ternary;

    m.def("linear", [](Array<const float, nb::ndim<2>> x, Array<const std::uint8_t> codes,
                       Scales scales, std::size_t span, int planes,
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
    m.def("dequantize", [](Array<const std::uint8_t> codes, Scales scales,
                           std::size_t rows, std::size_t span, int planes, std::size_t first,
                           Array<float, nb::ndim<2>> out, unsigned threads) {
        const Planes w = planes_of(codes, scales, rows, out.shape(1), span, planes);
        require(first % block_rows == 0 && first + out.shape(0) <= rows,
                "rows out of range, or not from the start of a block");
        nb::gil_scoped_release release;
        dequantize(w, first, out.shape(0), out.data(), threads);
    });
    m.def("arrange", [](Array<const std::int8_t, nb::ndim<3>> trits, Array<std::uint8_t> codes) {
        const Planes shape = shape_of(trits.shape(0), trits.shape(2), 32, int(trits.shape(1)));
        require(codes.size() == code_bytes(shape), "codes do not fit the shape");
        nb::gil_scoped_release release;
        arrange(shape, trits.data(), codes.data());
    });
    m.def("restore", [](Array<const std::uint8_t> codes, Array<std::int8_t, nb::ndim<3>> trits) {
        Planes w = shape_of(trits.shape(0), trits.shape(2), 32, int(trits.shape(1)));
        require(codes.size() == code_bytes(w), "codes do not fit the shape");
        w.codes = codes.data();
        nb::gil_scoped_release release;
        restore(w, trits.data());
    });
    m.def("touch", [](Array<const std::uint8_t> data) {
        nb::gil_scoped_release release;
        return touch(data.data(), data.size());
    });
    m.def("paths", &paths);
    m.def("use_path", &use_path);
}
