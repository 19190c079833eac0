// How bf16, fp16 and fp32 are stored, widened and narrowed, in integer arithmetic that every target
// vectorises. In an anonymous namespace: each file compiles its own copies for its own targets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace weightsmith {
namespace {

#define WS_INLINE inline __attribute__((always_inline))

WS_INLINE std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

WS_INLINE float from_bits(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

WS_INLINE float widen_f16(std::uint16_t half) {
    const std::uint32_t sign = std::uint32_t(half & 0x8000) << 16;
    const std::uint32_t magnitude = half & 0x7fff;
    const std::uint32_t normal = (magnitude << 13) + 0x38000000;
    // A subnormal half is an integer number of 2^-24: no subnormal float, which would be slow.
    const std::uint32_t subnormal = bits_of(float(std::int32_t(magnitude)) * 0x1p-24f);
    const std::uint32_t special = (magnitude << 13) | 0x7f800000;
    const std::uint32_t finite = magnitude < 0x0400 ? subnormal : normal;
    return from_bits(sign | (magnitude >= 0x7c00 ? special : finite));
}

WS_INLINE std::uint16_t narrow_bf16(float value) {
    const std::uint32_t bits = bits_of(value);
    const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return std::uint16_t((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

WS_INLINE std::uint16_t narrow_f16(float value) {
    const std::uint32_t bits = bits_of(value);
    const std::uint32_t sign = (bits >> 16) & 0x8000;
    const std::uint32_t magnitude = bits & 0x7fffffff;
    // Normal results: rebias, then round the 13 dropped bits to nearest even.
    const std::uint32_t normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    // Subnormal results: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits.
    const std::uint32_t subnormal = bits_of(from_bits(magnitude) + 0.5f) - 0x3f000000;
    std::uint32_t half = magnitude < 0x38800000 ? subnormal : normal;
    half = magnitude >= 0x477ff000 ? 0x7c00 : half;
    half = magnitude > 0x7f800000 ? 0x7e00 : (half | sign);
    return std::uint16_t(half);
}

WS_INLINE std::uint32_t canonical_f32(float value) {
    const std::uint32_t bits = bits_of(value);
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : bits;
}

// How a dtype is stored, widened and narrowed; `halfway` is the least magnitude that overflows.
struct Bf16 {
    using Stored = std::uint16_t;
    static constexpr std::uint32_t halfway = 0x7f7f8000;
    static WS_INLINE float widen(Stored x) { return from_bits(std::uint32_t(x) << 16); }
    static WS_INLINE Stored narrow(float x) { return narrow_bf16(x); }
};
struct F16 {
    using Stored = std::uint16_t;
    static constexpr std::uint32_t halfway = 0x477ff000;
    static WS_INLINE float widen(Stored x) { return widen_f16(x); }
    static WS_INLINE Stored narrow(float x) { return narrow_f16(x); }
};
struct F32 {
    using Stored = std::uint32_t;
    static constexpr std::uint32_t halfway = 0x7f800000;
    static WS_INLINE float widen(Stored x) { return from_bits(x); }
    static WS_INLINE Stored narrow(float x) { return canonical_f32(x); }
};

// Buffers need not be aligned; a fixed-size memcpy is one unaligned load or store.
template <typename Stored>
WS_INLINE Stored load(const unsigned char* data, std::size_t i) {
    Stored value;
    std::memcpy(&value, data + i * sizeof(Stored), sizeof(Stored));
    return value;
}

}  // namespace
}  // namespace weightsmith
