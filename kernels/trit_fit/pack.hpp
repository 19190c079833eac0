// Five trits in a byte, and back; the packed row is specified in docs/formats.md.
#pragma once

#include <cstddef>
#include <cstdint>

namespace weightsmith::trit_fit {

// bytes [rows, planes, ceil(columns / 5)], with `stride` bytes from row to row, from trits [rows,
// planes, columns].
void pack(std::uint8_t* bytes, std::size_t stride, const std::int8_t* trits, std::size_t rows,
          std::size_t planes, std::size_t columns);

// The reverse; returns how many bytes are no five trits.
std::size_t unpack(std::int8_t* trits, const std::uint8_t* bytes, std::size_t stride,
                   std::size_t rows, std::size_t planes, std::size_t columns);

// out [rows, columns]: sum over planes, in order, of scales [rows, groups, planes] times trits
// [rows, planes, columns]; every product and sum is one float32 operation.
void expand(float* out, const std::int8_t* trits, const float* scales, std::size_t rows,
            std::size_t planes, std::size_t columns, std::size_t group);

}  // namespace weightsmith::trit_fit
