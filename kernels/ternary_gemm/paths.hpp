// What the code paths (paths.cpp) and their callers (cpu.cpp) share.
#pragma once

#include <array>

#include "cpu.hpp"

namespace weightsmith::ternary {

// The activations of T tokens, as the inner loops want them.
template <std::size_t T>
struct Tokens {
    std::array<std::array<const std::int8_t*, 2>, T> values;
    std::array<const float*, T> scales;
    std::array<const std::int32_t*, T> offsets;
};

// Activations as integers: x = scale * n in each span, n = values[0] or 128 values[0] + values[1].
struct Quantized {
    std::size_t tokens, span, spans, strips;
    int parts;
    std::array<std::vector<std::int8_t>, 2> values;  // [tokens, strips, 32], zero beyond the inputs
    std::vector<float> scales;                       // [tokens, spans]
    std::vector<std::int32_t> offsets;               // [tokens, spans, 8]: minus the lanes' sums of n

    template <std::size_t T>
    Tokens<T> at(std::size_t token) const {
        Tokens<T> result;
        for (std::size_t t = 0; t < T; ++t) {
            for (std::size_t p = 0; p < 2; ++p)
                result.values[t][p] = values[p].data() + (token + t) * strips * strip_inputs;
            result.scales[t] = scales.data() + (token + t) * spans;
            result.offsets[t] = offsets.data() + (token + t) * spans * 8;
        }
        return result;
    }
};

// The loops of one code path; ranges are of blocks for planes, of rows for rows.
struct Path {
    using Range = std::size_t;
    void (*planes[2])(const Planes&, Range first, Range last, const Quantized&, float* y);
    void (*rows[2])(const Rows&, Range first, Range last, const Quantized&, float* y);
    void (*planes_floats)(const Planes&, Range first, Range last, const float* x,
                          std::size_t tokens, float* y);
    void (*rows_floats)(const Rows&, Range first, Range last, const float* x, std::size_t tokens,
                        float* y);
    void (*values)(const Planes&, std::size_t block, std::size_t count, float* out);
    void (*quantize)(const float* x, std::size_t inputs, Quantized&, std::size_t token);
};

// The path in use.
const Path& current();

}  // namespace weightsmith::ternary
