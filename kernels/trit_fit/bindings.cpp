// Python sees numpy arrays; shapes are checked here, once.

#include "bindings.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <tuple>

#include "cpu.hpp"
#include "pack.hpp"

namespace nb = nanobind;
namespace tf = weightsmith::trit_fit;

namespace {

template <typename T, int dimensions>
using Array = nb::ndarray<T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;

void require(bool condition) {
    if (!condition) throw std::invalid_argument("shapes of the arrays do not go together");
}

tf::Shape shape_of(std::size_t rows, std::size_t columns, std::size_t group, std::size_t planes) {
    require(group > 0 && columns > 0 && planes >= 1 && planes <= 3);
    return {rows, columns, group, int(planes)};
}

std::tuple<std::uint64_t, std::uint64_t> fit(Array<float, 3> scales, Array<std::uint8_t, 2> ratio,
                                             Array<const float, 2> weights,
                                             Array<const float, 1> importance, std::size_t group,
                                             Array<const float, 2> ratios, int starts) {
    const tf::Shape shape =
        shape_of(weights.shape(0), weights.shape(1), group, scales.shape(2));
    require(scales.shape(0) == shape.rows && scales.shape(1) == shape.groups() &&
            ratio.shape(0) == shape.rows && ratio.shape(1) == shape.groups() &&
            importance.shape(0) == shape.columns && starts > 0 &&
            (ratios.shape(0) == 0 || ratios.shape(1) == scales.shape(2)));
    nb::gil_scoped_release release;
    const tf::Fitted done = tf::fit(scales.data(), ratio.data(), weights.data(), importance.data(),
                                    shape, {ratios.data(), ratios.shape(0)}, starts);
    return {done.iterations, done.overflows};
}

std::tuple<double, double, std::uint64_t> assign(Array<std::int8_t, 3> trits,
                                                 Array<const float, 2> weights,
                                                 Array<const float, 3> scales, std::size_t group) {
    const tf::Shape shape =
        shape_of(weights.shape(0), weights.shape(1), group, scales.shape(2));
    require(scales.shape(0) == shape.rows && scales.shape(1) == shape.groups() &&
            trits.shape(0) == shape.rows && trits.shape(1) == scales.shape(2) &&
            trits.shape(2) == shape.columns);
    nb::gil_scoped_release release;
    const tf::Assigned done = tf::assign(trits.data(), weights.data(), scales.data(), shape);
    return {done.error, done.norm, done.zeros};
}

double algorithm1_step(Array<double, 3> scales, Array<std::int8_t, 3> trits,
                       Array<const float, 2> weights, std::size_t group) {
    const tf::Shape shape =
        shape_of(weights.shape(0), weights.shape(1), group, scales.shape(2));
    require(shape.planes == 2 && scales.shape(0) == shape.rows &&
            scales.shape(1) == shape.groups() && trits.shape(0) == shape.rows &&
            trits.shape(1) == 2 && trits.shape(2) == shape.columns);
    nb::gil_scoped_release release;
    return tf::algorithm1_step(scales.data(), trits.data(), weights.data(), shape);
}

void feedback(Array<std::int8_t, 3> trits, Array<float, 2> error, Array<float, 2> weights,
              Array<const float, 2> factor, Array<const float, 3> scales,
              Array<const std::int32_t, 1> group_of) {
    const tf::Shape shape = shape_of(weights.shape(0), weights.shape(1), 1, scales.shape(2));
    const std::size_t n = shape.columns;
    require(trits.shape(0) == shape.rows && trits.shape(1) == scales.shape(2) &&
            trits.shape(2) == n && error.shape(0) == shape.rows && error.shape(1) == n &&
            factor.shape(0) == n && factor.shape(1) == n && scales.shape(0) == shape.rows &&
            group_of.shape(0) == n);
    for (std::size_t j = 0; j < n; ++j)
        require(group_of(j) >= 0 && std::size_t(group_of(j)) < scales.shape(1));
    nb::gil_scoped_release release;
    tf::feedback(trits.data(), error.data(), weights.data(), factor.data(), scales.data(),
                 group_of.data(), shape, scales.shape(1));
}

// The bytes of the planes are part of packed rows: [rows, planes, width] of a larger array.
using Bytes = nb::ndarray<std::uint8_t, nb::ndim<3>, nb::device::cpu>;
using ConstBytes = nb::ndarray<const std::uint8_t, nb::ndim<3>, nb::device::cpu>;

// The distance from row to row; planes and bytes within one are dense.
template <typename View, typename Trits>
std::size_t stride_of(const View& bytes, const Trits& trits) {
    const std::size_t width = (trits.shape(2) + 4) / 5;
    require(bytes.shape(0) == trits.shape(0) && bytes.shape(1) == trits.shape(1) &&
            bytes.shape(2) == width && (width <= 1 || bytes.stride(2) == 1) &&
            (bytes.shape(1) <= 1 || std::size_t(bytes.stride(1)) == width) &&
            bytes.stride(0) >= 0);
    return std::size_t(bytes.stride(0));
}

void pack(Bytes bytes, Array<const std::int8_t, 3> trits) {
    const std::size_t stride = stride_of(bytes, trits);
    nb::gil_scoped_release release;
    tf::pack(bytes.data(), stride, trits.data(), trits.shape(0), trits.shape(1), trits.shape(2));
}

std::size_t unpack(Array<std::int8_t, 3> trits, ConstBytes bytes) {
    const std::size_t stride = stride_of(bytes, trits);
    nb::gil_scoped_release release;
    return tf::unpack(trits.data(), bytes.data(), stride, trits.shape(0), trits.shape(1),
                      trits.shape(2));
}

void expand(Array<float, 2> out, Array<const std::int8_t, 3> trits, Array<const float, 3> scales,
            std::size_t group) {
    const tf::Shape shape = shape_of(out.shape(0), out.shape(1), group, scales.shape(2));
    require(scales.shape(0) == shape.rows && scales.shape(1) == shape.groups() &&
            trits.shape(0) == shape.rows && trits.shape(1) == scales.shape(2) &&
            trits.shape(2) == shape.columns);
    nb::gil_scoped_release release;
    tf::expand(out.data(), trits.data(), scales.data(), shape.rows, trits.shape(1), shape.columns,
               group);
}

}  // namespace

void bind_trit_fit(nb::module_& m) {
    m.def("fit", &fit);
    m.def("assign", &assign);
    m.def("algorithm1_step", &algorithm1_step);
    m.def("feedback", &feedback);
    m.def("pack", &pack);
    m.def("unpack", &unpack);
    m.def("expand", &expand);
    m.def("isas", &tf::isas);
    m.def("use_isa", &tf::use_isa);
}
