// Trits into the kernel layout, and back.

#include <algorithm>
#include <vector>

#include "cpu.hpp"

namespace weightsmith::ternary {

void arrange(const Planes& shape, const std::int8_t* trits, std::uint8_t* codes) {
    const std::size_t strips = shape.strips(), planes = std::size_t(shape.planes);
    const std::size_t width = strips * strip_inputs;
    std::vector<std::int8_t> four(4 * width);  // rows that share bytes; zero beyond the edges
    for (std::size_t unit = 0; unit < shape.blocks() * 2; ++unit)
        for (std::size_t k = 0; k < planes; ++k) {
            std::fill(four.begin(), four.end(), std::int8_t(0));
            for (std::size_t r = 0; r < 4 && unit * 4 + r < shape.rows; ++r)
                std::copy_n(trits + ((unit * 4 + r) * planes + k) * shape.inputs, shape.inputs,
                            four.begin() + r * width);
            for (std::size_t i = 0; i < strips; ++i) {
                std::uint8_t* const strip =
                    codes + ((unit / 2 * strips + i) * planes + k) * 64 + unit % 2 * 32;
                const std::int8_t* const t = four.data() + i * strip_inputs;
                for (std::size_t j = 0; j < strip_inputs; ++j)
                    strip[j] = std::uint8_t((t[j] + 1) | (t[j + width] + 1) << 2 |
                                            (t[j + 2 * width] + 1) << 4 |
                                            (t[j + 3 * width] + 1) << 6);
            }
        }
}

void restore(const Planes& w, std::int8_t* trits) {
    const std::size_t strips = w.strips(), planes = std::size_t(w.planes);
    for (std::size_t row = 0; row < w.rows; ++row)
        for (std::size_t k = 0; k < planes; ++k) {
            const std::size_t block = row / block_rows, r = row % block_rows;
            const std::uint8_t* const codes =
                w.codes + (block * strips * planes + k) * 64 + r / 4 * 32;
            std::int8_t* const into = trits + (row * planes + k) * w.inputs;
            for (std::size_t i = 0; i < w.inputs; ++i) {
                const std::uint8_t byte =
                    codes[i / strip_inputs * planes * 64 + i % strip_inputs];
                into[i] = std::int8_t((byte >> (r % 4 * 2) & 3) - 1);
            }
        }
}

}  // namespace weightsmith::ternary
