// One body for all instruction sets, as in elementwise/cpu.cpp: plain loops, no intrinsics, and no
// branches on values but in count, which no instruction set makes faster.

#include "cpu.hpp"

#include <algorithm>

#include "../choice.hpp"
#include "../dtypes.hpp"

namespace weightsmith::task_vectors {
namespace {

constexpr std::size_t chunk = 1024;  // elements; scratch of this length stays in the first-level cache

WS_INLINE std::uint32_t magnitude(float x) { return bits_of(x) & 0x7fffffff; }

WS_INLINE std::size_t trim_run(float* vector, std::size_t n, std::uint32_t threshold, std::size_t equal) {
    std::size_t seen = 0;
    for (std::size_t first = 0; first < n; first += chunk) {
        float* run = vector + first;
        const std::size_t size = std::min(chunk, n - first);
        std::uint32_t ties = 0;
        for (std::size_t i = 0; i < size; ++i) ties += magnitude(run[i]) == threshold;
        if (ties && seen + ties > equal) {  // in this run some that equal the threshold have to go
            for (std::size_t i = 0; i < size; ++i)
                if (magnitude(run[i]) == threshold && seen++ >= equal) run[i] = 0;
        } else {
            seen += ties;
        }
        for (std::size_t i = 0; i < size; ++i) run[i] = magnitude(run[i]) < threshold ? 0.0f : run[i];
    }
    return std::min(seen, equal);
}

WS_INLINE std::size_t combine_run(float* out, std::size_t n, Mix mix) {
    std::size_t strange = 0;
    for (std::size_t first = 0; first < n; first += chunk) {
        const std::size_t size = std::min(chunk, n - first);
        alignas(64) float total[chunk], merged[chunk], divisor[chunk];
        for (std::size_t k = 0; k < mix.count; ++k) {
            const float* x = mix.vectors + k * n + first;
            const float w = mix.weights[k];
            for (std::size_t i = 0; i < size; ++i) total[i] = k ? total[i] + w * x[i] : w * x[i];
        }
        std::uint32_t over = 0;
        for (std::size_t i = 0; i < size; ++i) over += magnitude(total[i]) >= 0x7f800000;
        strange += over;
        if (!mix.elect) {
            std::copy(total, total + size, out + first);
            continue;
        }
        std::fill(merged, merged + size, 0.0f);
        std::fill(divisor, divisor + size, 0.0f);
        for (std::size_t k = 0; k < mix.count; ++k) {
            const float* x = mix.vectors + k * n + first;
            const float w = mix.weights[k];
            for (std::size_t i = 0; i < size; ++i) {
                const float y = w * x[i];
                const float along = total[i] >= 0 ? y : -y;  // one select: a branch would be guessed
                const std::uint32_t agrees = along > 0 ? ~std::uint32_t(0) : 0;
                merged[i] += from_bits(bits_of(y) & agrees);
                divisor[i] += from_bits(bits_of(w) & agrees);
            }
        }
        for (std::size_t i = 0; i < size; ++i) {
            const float by = divisor[i] == 0 ? 1.0f : divisor[i];
            out[first + i] = mix.normalize ? merged[i] / by : merged[i];
        }
    }
    return strange;
}

struct Isa {
    const char* name;
    std::size_t (*trim)(float*, std::size_t, std::uint32_t, std::size_t);
    std::size_t (*combine)(float*, std::size_t, Mix);
};

#define WS_TARGET(suffix, attribute)                                                             \
    attribute std::size_t trim_##suffix(float* vector, std::size_t n, std::uint32_t threshold,   \
                                        std::size_t equal) {                                     \
        return trim_run(vector, n, threshold, equal);                                            \
    }                                                                                            \
    attribute std::size_t combine_##suffix(float* out, std::size_t n, Mix mix) {                 \
        return combine_run(out, n, mix);                                                         \
    }

WS_TARGET(baseline, )
#if defined(__x86_64__)
WS_TARGET(avx2, WS_WITH_AVX2)
WS_TARGET(avx512, WS_WITH_AVX512)
#endif

std::vector<Isa> available() {
    std::vector<Isa> found{{"baseline", trim_baseline, combine_baseline}};
#if defined(__x86_64__)
    if (has_avx2()) found.push_back({"avx2", trim_avx2, combine_avx2});
    if (has_avx512()) found.push_back({"avx512", trim_avx512, combine_avx512});
#endif
    return found;
}

Choice<Isa>& choice() {
    static Choice<Isa> chosen{available()};
    return chosen;
}

}  // namespace

void count(std::int64_t* bins, const float* vector, std::size_t n, std::int32_t upper) {
    if (upper < 0) {
        for (std::size_t i = 0; i < n; ++i) ++bins[magnitude(vector[i]) >> 16];
        return;
    }
    for (std::size_t i = 0; i < n; ++i) {
        const std::uint32_t bits = magnitude(vector[i]);
        if (bits >> 16 == std::uint32_t(upper)) ++bins[bits & 0xffff];
    }
}

std::size_t trim(float* vector, std::size_t n, std::uint32_t threshold, std::size_t equal) {
    return choice().current().trim(vector, n, threshold, equal);
}

std::size_t combine(float* out, std::size_t n, Mix mix) { return choice().current().combine(out, n, mix); }

std::vector<std::string> isas() { return choice().names(); }

void use_isa(const std::string& name) { choice().use(name); }

}  // namespace weightsmith::task_vectors
