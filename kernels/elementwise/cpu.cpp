// One body for all instruction sets: plain loops over chunks that fit the first-level cache, which
// the compiler vectorises once for each target below. No intrinsics, no alignment, no branches on
// values. Compiled with -ffp-contract=off, so every operation rounds as it is written.

#include "cpu.hpp"

#include <cstring>
#include <stdexcept>

namespace weightsmith::elementwise {
namespace {

constexpr std::size_t chunk = 1024;  // floats per scratch row: three rows are 12 KiB

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

// Copies through aligned scratch of the element type, so that unaligned buffers are no special case.
template <typename Element>
WS_INLINE void fetch(Element* scratch, const unsigned char* data, std::size_t first, std::size_t n) {
    std::memcpy(scratch, data + first * sizeof(Element), n * sizeof(Element));
}

WS_INLINE void widen(float* out, Input input, std::size_t first, std::size_t n) {
    alignas(64) std::uint16_t halves[chunk];
    switch (input.dtype) {
        case DType::f32:
            fetch(out, input.data, first, n);
            return;
        case DType::bf16:
            fetch(halves, input.data, first, n);
            for (std::size_t i = 0; i < n; ++i) out[i] = from_bits(std::uint32_t(halves[i]) << 16);
            return;
        case DType::f16:
            fetch(halves, input.data, first, n);
            for (std::size_t i = 0; i < n; ++i) out[i] = widen_f16(halves[i]);
            return;
    }
}

WS_INLINE std::size_t narrow(Output out, const float* values, std::size_t first, std::size_t n) {
    alignas(64) std::uint16_t halves[chunk];
    alignas(64) std::uint32_t words[chunk];
    std::uint32_t overflows = 0;
    switch (out.dtype) {
        case DType::f32:
            for (std::size_t i = 0; i < n; ++i) words[i] = canonical_f32(values[i]);
            std::memcpy(out.data + first * 4, words, n * 4);
            return 0;
        case DType::bf16:
            for (std::size_t i = 0; i < n; ++i) {
                halves[i] = narrow_bf16(values[i]);
                const std::uint32_t magnitude = bits_of(values[i]) & 0x7fffffff;
                // Finite, but at least halfway between the largest bf16 and the next power of two.
                overflows += (magnitude >= 0x7f7f8000) & (magnitude < 0x7f800000);
            }
            break;
        case DType::f16:
            for (std::size_t i = 0; i < n; ++i) {
                halves[i] = narrow_f16(values[i]);
                const std::uint32_t magnitude = bits_of(values[i]) & 0x7fffffff;
                overflows += (magnitude >= 0x477ff000) & (magnitude < 0x7f800000);
            }
            break;
    }
    std::memcpy(out.data + first * 2, halves, n * 2);
    return overflows;
}

template <Formula formula>
WS_INLINE std::size_t compute_all(Output out, std::size_t n, const Input* inputs,
                                  const float* coefficients) {
    constexpr int arity = formula == Formula::cast ? 1 : formula == Formula::graft ? 3 : 2;
    alignas(64) float x[arity][chunk];
    std::size_t overflows = 0;
    for (std::size_t first = 0; first < n; first += chunk) {
        const std::size_t count = n - first < chunk ? n - first : chunk;
        for (int k = 0; k < arity; ++k) widen(x[k], inputs[k], first, count);
        float* y = x[0];
        if constexpr (formula == Formula::difference) {
            for (std::size_t i = 0; i < count; ++i) y[i] = x[0][i] - x[1][i];
        } else if constexpr (formula == Formula::axpy) {
            const float scale = coefficients[0];
            for (std::size_t i = 0; i < count; ++i) y[i] = x[0][i] + scale * x[1][i];
        } else if constexpr (formula == Formula::graft) {
            const float scale = coefficients[0];
            for (std::size_t i = 0; i < count; ++i) y[i] = x[0][i] + scale * (x[1][i] - x[2][i]);
        } else if constexpr (formula == Formula::lerp) {
            const float a = coefficients[0], b = coefficients[1];
            for (std::size_t i = 0; i < count; ++i) y[i] = a * x[0][i] + b * x[1][i];
        }
        overflows += narrow(out, y, first, count);
    }
    return overflows;
}

WS_INLINE std::size_t dispatch(Formula formula, Output out, std::size_t n, const Input* inputs,
                               const float* coefficients) {
    switch (formula) {
        case Formula::cast: return compute_all<Formula::cast>(out, n, inputs, coefficients);
        case Formula::difference: return compute_all<Formula::difference>(out, n, inputs, coefficients);
        case Formula::axpy: return compute_all<Formula::axpy>(out, n, inputs, coefficients);
        case Formula::graft: return compute_all<Formula::graft>(out, n, inputs, coefficients);
        case Formula::lerp: return compute_all<Formula::lerp>(out, n, inputs, coefficients);
    }
    return 0;
}

WS_INLINE Nonfinite count_all(Input input, std::size_t n) {
    alignas(64) float values[chunk];
    Nonfinite total{0, 0};
    for (std::size_t first = 0; first < n; first += chunk) {
        const std::size_t count = n - first < chunk ? n - first : chunk;
        widen(values, input, first, count);
        std::uint32_t nan = 0, infinite = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint32_t magnitude = bits_of(values[i]) & 0x7fffffff;
            nan += magnitude > 0x7f800000;
            infinite += magnitude == 0x7f800000;
        }
        total.nan += nan;
        total.infinite += infinite;
    }
    return total;
}

struct Isa {
    const char* name;
    std::size_t (*compute)(Formula, Output, std::size_t, const Input*, const float*);
    Nonfinite (*count)(Input, std::size_t);
};

#define WS_TARGET(suffix, attribute)                                                              \
    attribute std::size_t compute_##suffix(Formula formula, Output out, std::size_t n,            \
                                           const Input* inputs, const float* coefficients) {      \
        return dispatch(formula, out, n, inputs, coefficients);                                   \
    }                                                                                             \
    attribute Nonfinite count_##suffix(Input input, std::size_t n) { return count_all(input, n); }

WS_TARGET(baseline, )
#if defined(__x86_64__)
WS_TARGET(avx2, __attribute__((target("avx2"))))
WS_TARGET(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))))
#endif

std::vector<Isa> available() {
    std::vector<Isa> found{{"baseline", compute_baseline, count_baseline}};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) found.push_back({"avx2", compute_avx2, count_avx2});
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        found.push_back({"avx512", compute_avx512, count_avx512});
#endif
    return found;
}

Isa& current() {
    static Isa isa = available().back();
    return isa;
}

}  // namespace

DType parse_dtype(const std::string& name) {
    if (name == "BF16") return DType::bf16;
    if (name == "F16") return DType::f16;
    if (name == "F32") return DType::f32;
    throw std::invalid_argument("no arithmetic on dtype " + name);
}

std::size_t width(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

std::size_t compute(Formula formula, Output out, std::size_t n, const Input* inputs,
                    const float* coefficients) {
    return current().compute(formula, out, n, inputs, coefficients);
}

void exclusive_or(unsigned char* out, const unsigned char* a, const unsigned char* b,
                  std::size_t nbytes) {
    for (std::size_t i = 0; i < nbytes; ++i) out[i] = a[i] ^ b[i];
}

Nonfinite count_nonfinite(Input input, std::size_t n) { return current().count(input, n); }

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const Isa& isa : available()) names.emplace_back(isa.name);
    return names;
}

void use_isa(const std::string& name) {
    for (const Isa& isa : available())
        if (name == isa.name) {
            current() = isa;
            return;
        }
    throw std::invalid_argument("this CPU cannot run " + name);
}

}  // namespace weightsmith::elementwise
