// The code paths: one set of loops (block.inl) over the registers of each instruction set, chosen at
// run time. Compiled with -ffp-contract=off; every fused operation is written as one.

#include "paths.hpp"

#include <cmath>
#include <cstring>

#include "../choice.hpp"
#include "../dtypes.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace weightsmith::ternary {
namespace {

constexpr std::size_t max_span = 128;
constexpr std::size_t ahead = 2048;      // bytes that a prefetch is ahead
constexpr float least_peak = 0x1p-90f;   // activations that are all smaller count as zero

// Eight lanes of whatever registers the target has.
using Float8 = float __attribute__((vector_size(32)));
using Word8 = std::uint32_t __attribute__((vector_size(32)));
using Int8 = std::int32_t __attribute__((vector_size(32)));

WS_INLINE float scale_at(const Planes& w, std::size_t i) {
    if (w.wide) return static_cast<const float*>(w.scales)[i];
    return widen_f16(static_cast<const std::uint16_t*>(w.scales)[i]);
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
    if (has_avx2() && __builtin_cpu_supports("fma") &&
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

Choice<Named>& choice() {
    static Choice<Named> chosen{available()};
    return chosen;
}

}  // namespace

const Path& current() { return *choice().current().path; }

std::vector<std::string> paths() { return choice().names(); }

void use_path(const std::string& name) { choice().use(name); }

}  // namespace weightsmith::ternary
