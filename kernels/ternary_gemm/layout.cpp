// Packed rows of base-3 bytes into the kernel layout, and back.

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>

#include "cpu.hpp"

namespace weightsmith::ternary {
namespace {

constexpr std::size_t trits_per_byte = 5;
constexpr unsigned values = 243;  // 3^5

using Digits = std::array<std::array<std::uint8_t, 8>, values>;

const Digits& digits() {
    static const Digits table = [] {
        Digits result{};
        for (unsigned byte = 0; byte < values; ++byte)
            for (unsigned j = 0, rest = byte; j < trits_per_byte; ++j, rest /= 3)
                result[byte][j] = std::uint8_t(rest % 3);
        return result;
    }();
    return table;
}

struct Row {
    std::size_t plane_bytes, groups, nbytes;
    Row(std::size_t inputs, std::size_t group, int planes)
        : plane_bytes(ceil_div(inputs, trits_per_byte)),
          groups(ceil_div(inputs, group)),
          nbytes(planes * (plane_bytes + 2 * groups)) {}
};

[[noreturn]] void refuse(std::size_t row, const char* what) {
    throw std::invalid_argument("row " + std::to_string(row) + " " + what);
}

// The codes 0, 1, 2 of one plane of one row.
void decode(const std::uint8_t* packed, std::size_t row, std::size_t nbytes, std::uint8_t* codes) {
    for (std::size_t b = 0; b < nbytes; ++b) {
        if (packed[b] >= values) refuse(row, "has a byte that is no five trits");
        // Eight bytes at once, of which three are written over: `codes` has room for that.
        std::memcpy(codes + b * trits_per_byte, digits()[packed[b]].data(), 8);
    }
}

}  // namespace

void expand(const std::uint8_t* packed, const Planes& shape, std::size_t group,
            std::uint8_t* codes, std::uint16_t* scales) {
    const Row row(shape.inputs, group, shape.planes);
    const std::size_t strips = shape.strips(), spans = shape.spans(), planes = shape.planes;
    std::array<std::vector<std::uint8_t>, 4> four;
    for (auto& each : four) each.resize(strips * strip_inputs + 2 * strip_inputs);
    for (std::size_t block = 0; block < shape.blocks(); ++block) {
        std::uint8_t* const into = codes + block * strips * planes * 64;
        for (std::size_t k = 0; k < planes; ++k)
            for (std::size_t half = 0; half < 2; ++half) {
                for (std::size_t r = 0; r < 4; ++r) {
                    const std::size_t n = block * block_rows + half * 4 + r;
                    std::uint8_t* const begin = four[r].data();
                    if (n < shape.rows)
                        decode(packed + n * row.nbytes + k * row.plane_bytes, n, row.plane_bytes,
                               begin);
                    const std::size_t used = n < shape.rows ? shape.inputs : 0;
                    std::fill(begin + used, begin + strips * strip_inputs, std::uint8_t(1));
                }
                for (std::size_t i = 0; i < strips; ++i) {
                    std::uint8_t* const strip = into + (i * planes + k) * 64 + half * 32;
                    for (std::size_t j = 0; j < strip_inputs; ++j) {
                        const std::size_t at = i * strip_inputs + j;
                        strip[j] = std::uint8_t(four[0][at] | four[1][at] << 2 | four[2][at] << 4 |
                                                four[3][at] << 6);
                    }
                }
            }
        for (std::size_t r = 0; r < block_rows; ++r) {
            const std::size_t n = block * block_rows + r;
            const std::uint8_t* const stored = packed + n * row.nbytes + planes * row.plane_bytes;
            for (std::size_t s = 0; s < spans; ++s)
                for (std::size_t k = 0; k < planes; ++k) {
                    std::uint16_t scale = 0;
                    if (n < shape.rows)
                        std::memcpy(&scale, stored + (s * shape.span / group * planes + k) * 2, 2);
                    if (scale >= 0x7c00 && scale != 0x8000)
                        refuse(n, "has a scale that is negative or not finite");
                    scales[((block * spans + s) * planes + k) * block_rows + r] = scale & 0x7fff;
                }
        }
    }
}

void fold(const Planes& w, std::size_t group, std::uint8_t* packed) {
    const Row row(w.inputs, group, w.planes);
    const std::size_t strips = w.strips(), spans = w.spans(), planes = w.planes;
    for (std::size_t n = 0; n < w.rows; ++n) {
        const std::size_t block = n / block_rows, r = n % block_rows;
        std::uint8_t* const into = packed + n * row.nbytes;
        const std::uint8_t* const codes = w.codes + block * strips * planes * 64 + r / 4 * 32;
        for (std::size_t k = 0; k < planes; ++k)
            for (std::size_t b = 0; b < row.plane_bytes; ++b) {
                unsigned byte = 0;
                for (std::size_t j = trits_per_byte; j-- > 0;) {
                    const std::size_t i = b * trits_per_byte + j;
                    const std::size_t at = (i / strip_inputs * planes + k) * 64 + i % strip_inputs;
                    byte = byte * 3 + (i < w.inputs ? codes[at] >> (r % 4 * 2) & 3u : 1u);
                }
                into[k * row.plane_bytes + b] = std::uint8_t(byte);
            }
        for (std::size_t g = 0; g < row.groups; ++g)
            for (std::size_t k = 0; k < planes; ++k) {
                const std::size_t s = g * group / w.span;
                std::memcpy(into + planes * row.plane_bytes + (g * planes + k) * 2,
                            w.scales + ((block * spans + s) * planes + k) * block_rows + r, 2);
            }
    }
}

}  // namespace weightsmith::ternary
