// One body for all instruction sets, as in elementwise/cpu.cpp. Each element is summed in the order
// of the rank, by one product and one addition after the other; only elements run side by side, so
// every target gives the same bits. Compiled with -ffp-contract=off.

#include "cpu.hpp"

#include <memory>

#include "../choice.hpp"
#include "../dtypes.hpp"

namespace weightsmith::low_rank {
namespace {

constexpr std::size_t lanes = 16;  // floats in a vector; the compiler splits it where registers are smaller
constexpr std::size_t height = 4;  // rows whose sums are in registers at a time
using Floats = float __attribute__((vector_size(4 * lanes)));

WS_INLINE Floats load_floats(const float* at) {
    Floats found;
    std::memcpy(&found, at, sizeof found);
    return found;
}

// `high` rows of a strip that is `wide` vectors wide. `packed` is the strip of the right factor.
template <std::size_t high, std::size_t wide>
WS_INLINE void tile(float* out, std::size_t count, const Factors& f, const float* left,
                    const float* packed, float scale) {
    Floats sums[high][wide] = {};
    for (std::size_t k = 0; k < f.rank; ++k)
        for (std::size_t j = 0; j < wide; ++j) {
            const Floats right = load_floats(packed + (k * wide + j) * lanes);
            for (std::size_t i = 0; i < high; ++i) sums[i][j] += left[i * f.rank + k] * right;
        }
    for (std::size_t i = 0; i < high; ++i) {
        for (std::size_t j = 0; j < wide; ++j) sums[i][j] *= scale;
        std::memcpy(out + i * f.columns, sums[i], count * sizeof(float));
    }
}

template <std::size_t wide>
WS_INLINE void strips(float* out, const Factors& f, float scale, float* packed) {
    constexpr std::size_t width = wide * lanes;
    for (std::size_t first = 0; first < f.columns; first += width) {
        const std::size_t count = f.columns - first < width ? f.columns - first : width;
        for (std::size_t k = 0; k < f.rank; ++k) {
            float* row = packed + k * width;
            std::memcpy(row, f.right + k * f.columns + first, count * sizeof(float));
            for (std::size_t j = count; j < width; ++j) row[j] = 0.0f;
        }
        float* target = out + first;
        const float* left = f.left;
        std::size_t row = 0;
        for (; row + height <= f.rows; row += height) {
            tile<height, wide>(target, count, f, left, packed, scale);
            target += height * f.columns, left += height * f.rank;
        }
        for (; row < f.rows; ++row, target += f.columns, left += f.rank)
            tile<1, wide>(target, count, f, left, packed, scale);
    }
}

constexpr std::size_t widest = 2;  // vectors

struct Isa {
    const char* name;
    void (*run)(float*, const Factors&, float, float*);
};

#define WS_TARGET(suffix, wide, attribute)                                                         \
    attribute void run_##suffix(float* out, const Factors& f, float scale, float* packed) {        \
        strips<wide>(out, f, scale, packed);                                                       \
    }

WS_TARGET(baseline, 1, )
#if defined(__x86_64__)
WS_TARGET(avx2, 1, WS_WITH_AVX2)
WS_TARGET(avx512, 2, WS_WITH_AVX512)
#endif

std::vector<Isa> available() {
    std::vector<Isa> found{{"baseline", run_baseline}};
#if defined(__x86_64__)
    if (has_avx2()) found.push_back({"avx2", run_avx2});
    if (has_avx512()) found.push_back({"avx512", run_avx512});
#endif
    return found;
}

Choice<Isa>& choice() {
    static Choice<Isa> chosen{available()};
    return chosen;
}

}  // namespace

void product(float* out, Factors factors, float scale) {
    const std::unique_ptr<float[]> packed(new float[factors.rank * widest * lanes]);
    choice().current().run(out, factors, scale, packed.get());
}

std::vector<std::string> isas() { return choice().names(); }

void use_isa(const std::string& name) { choice().use(name); }

}  // namespace weightsmith::low_rank
