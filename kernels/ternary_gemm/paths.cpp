// The code paths: one set of loops (block.inl) over the registers of each instruction set, chosen at
// run time. Compiled with -ffp-contract=off; every fused operation is written as one.

#include "paths.hpp"

#include <cmath>
#include <cstring>
#include <stdexcept>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define WS_INLINE inline __attribute__((always_inline))

namespace weightsmith::ternary {
namespace {

constexpr std::size_t max_span = 128;
constexpr std::size_t ahead = 2048;      // bytes that a prefetch is ahead
constexpr float least_peak = 0x1p-90f;   // activations that are all smaller count as zero

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

// Eight lanes of whatever registers the target has.
using Float8 = float __attribute__((vector_size(32)));
using Word8 = std::uint32_t __attribute__((vector_size(32)));
using Int8 = std::int32_t __attribute__((vector_size(32)));

// Scales are finite and not negative.
WS_INLINE float widen_scale(std::uint16_t half) {
    return from_bits(std::uint32_t(half) << 13) * 0x1p112f;
}

// The order in which the eight lanes of a row are added, on every path.
WS_INLINE float sum_lanes(const float* v) {
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

#include "scalar.inl"
#if defined(__x86_64__)
#include "x86.inl"
#elif defined(__aarch64__)
#include "neon.inl"
#endif

struct Named {
    const char* name;
    const Path* path;
};

std::vector<Named> available() {
    std::vector<Named> found{{"scalar", &scalar::path}};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c")) {
        found.push_back({"avx2-psignb", &avx2_psignb::path});
        found.push_back({"avx2-maddubs", &avx2_maddubs::path});
        if (__builtin_cpu_supports("avxvnni")) found.push_back({"avx-vnni", &avx_vnni::path});
        if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
            found.push_back({"avx512-vnni", &avx512_vnni::path});
    }
#elif defined(__aarch64__)
    found.push_back({"neon", &neon::path});
#endif
    return found;
}

const Path*& chosen() {
    static const Path* path = available().back().path;
    return path;
}

}  // namespace

const Path& current() { return *chosen(); }

std::vector<std::string> paths() {
    std::vector<std::string> names;
    for (const Named& each : available()) names.emplace_back(each.name);
    return names;
}

void use_path(const std::string& name) {
    for (const Named& each : available())
        if (name == each.name) {
            chosen() = each.path;
            return;
        }
    throw std::invalid_argument("this CPU cannot run " + name);
}

}  // namespace weightsmith::ternary
