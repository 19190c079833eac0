#include "pack.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace weightsmith::trit_fit {
namespace {

constexpr int per_byte = 5;
constexpr int codes = 243;
using Five = std::array<std::int8_t, 8>;  // eight, so that copying one is a single move

std::array<Five, 256> make_table() {
    std::array<Five, 256> table{};
    for (int code = 0; code < codes; ++code)
        for (int digit = 0, rest = code; digit < per_byte; ++digit, rest /= 3)
            table[std::size_t(code)][std::size_t(digit)] = std::int8_t(rest % 3 - 1);
    return table;
}

}  // namespace

void pack(std::uint8_t* bytes, std::size_t stride, const std::int8_t* trits, std::size_t rows,
          std::size_t planes, std::size_t columns) {
    const std::size_t full = columns / per_byte, left = columns % per_byte;
    for (std::size_t row = 0; row < rows; ++row) {
        std::uint8_t* out = bytes + row * stride;
        for (std::size_t k = 0; k < planes; ++k) {
            const std::int8_t* t = trits + (row * planes + k) * columns;
            for (std::size_t b = 0; b < full; ++b, t += per_byte)
                *out++ = std::uint8_t(121 + t[0] + 3 * t[1] + 9 * t[2] + 27 * t[3] + 81 * t[4]);
            if (left > 0) {
                int code = 121, power = 1;
                for (std::size_t i = 0; i < left; ++i, power *= 3) code += power * t[i];
                *out++ = std::uint8_t(code);
            }
        }
    }
}

std::size_t unpack(std::int8_t* trits, const std::uint8_t* bytes, std::size_t stride,
                   std::size_t rows, std::size_t planes, std::size_t columns) {
    static const std::array<Five, 256> table = make_table();
    const std::size_t full = columns / per_byte, left = columns % per_byte;
    std::size_t invalid = 0;
    for (std::size_t row = 0; row < rows; ++row) {
        const std::uint8_t* in = bytes + row * stride;
        for (std::size_t k = 0; k < planes; ++k) {
            std::int8_t* t = trits + (row * planes + k) * columns;
            for (std::size_t b = 0; b < full; ++b, ++in, t += per_byte) {
                std::memcpy(t, table[*in].data(), per_byte);
                invalid += *in >= codes;
            }
            if (left > 0) {
                std::memcpy(t, table[*in].data(), left);
                invalid += *in >= codes;
                ++in;
            }
        }
    }
    return invalid;
}

void expand(float* out, const std::int8_t* trits, const float* scales, std::size_t rows,
            std::size_t planes, std::size_t columns, std::size_t group) {
    const std::size_t groups = (columns + group - 1) / group;
    for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t g = 0; g < groups; ++g) {
            const std::size_t start = g * group, size = std::min(group, columns - start);
            const float* scale = scales + (row * groups + g) * planes;
            float* y = out + row * columns + start;
            for (std::size_t k = 0; k < planes; ++k) {
                const std::int8_t* t = trits + (row * planes + k) * columns + start;
                if (k == 0)
                    for (std::size_t i = 0; i < size; ++i) y[i] = scale[0] * float(t[i]);
                else
                    for (std::size_t i = 0; i < size; ++i) y[i] = y[i] + scale[k] * float(t[i]);
            }
        }
}

}  // namespace weightsmith::trit_fit
