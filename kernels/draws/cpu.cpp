// One body for all instruction sets, as in elementwise/cpu.cpp: plain loops over a batch, with no
// intrinsics and no branches on values, that the compiler vectorises once for each target below.
// Compiled with -ffp-contract=off, so every target gives the same bits.

#include "cpu.hpp"

#include <cmath>

#include "../choice.hpp"
#include "../dtypes.hpp"

namespace weightsmith::draws {
namespace {

constexpr std::size_t batch = 64;  // counters at a time: four words each, all in the first-level cache

struct Words {
    alignas(64) std::uint32_t word[4][batch];
};

// Philox4x32-10 of the counters (first_quad + i, row, 0).
WS_INLINE void philox(Words& out, std::uint32_t first_quad, std::uint64_t row, std::uint64_t key) {
    auto& [a, b, c, d] = out.word;
    for (std::size_t i = 0; i < batch; ++i) {
        a[i] = first_quad + std::uint32_t(i);
        b[i] = std::uint32_t(row);
        c[i] = std::uint32_t(row >> 32);
        d[i] = 0;
    }
    std::uint32_t k = std::uint32_t(key), l = std::uint32_t(key >> 32);
    for (int round = 0; round < 10; ++round) {
        for (std::size_t i = 0; i < batch; ++i) {
            const std::uint64_t p = std::uint64_t(a[i]) * 0xD2511F53u;
            const std::uint64_t q = std::uint64_t(c[i]) * 0xCD9E8D57u;
            a[i] = std::uint32_t(q >> 32) ^ b[i] ^ k;
            b[i] = std::uint32_t(q);
            c[i] = std::uint32_t(p >> 32) ^ d[i] ^ l;
            d[i] = std::uint32_t(p);
        }
        k += 0x9E3779B9u;
        l += 0xBB67AE85u;
    }
}

// ln of a number in [2^-32, 1].
WS_INLINE float logarithm(float u) {
    const std::uint32_t bits = bits_of(u);
    // u = 2^e m with m in [sqrt(1/2), sqrt(2)): 0x3f3504f3 is the float32 next to sqrt(1/2).
    const std::int32_t e = std::int32_t(bits - 0x3f3504f3u) >> 23;
    const float m = from_bits(bits - (std::uint32_t(e) << 23));
    const float s = (m - 1.0f) / (m + 1.0f), z = s * s;
    const float series = (((1.0f / 9 * z + 1.0f / 7) * z + 1.0f / 5) * z + 1.0f / 3) * z;
    const float twice = s + s;
    return float(e) * 0.693147180559945309f + (twice + twice * series);
}

// Two words into two normal deviates.
WS_INLINE void box_muller(float& first, float& second, std::uint32_t v, std::uint32_t w) {
    const float u = float(std::int32_t(v >> 1)) * 0x1p-31f + 0x1p-32f;
    const float radius = std::sqrt(-2.0f * logarithm(u));
    // The angle is a quarter turn times the upper two bits, rounded, and a rest within an eighth.
    const std::uint32_t quarter = (w + 0x20000000u) >> 30;
    const float y = float(std::int32_t(w - (quarter << 30))) * float(1.57079632679489662 * 0x1p-30);
    const float z = y * y;
    const float sine =
        ((((1.0f / 362880 * z - 1.0f / 5040) * z + 1.0f / 120) * z - 1.0f / 6) * z) * y + y;
    const float cosine =
        (((((-1.0f / 3628800 * z + 1.0f / 40320) * z - 1.0f / 720) * z + 1.0f / 24) * z - 0.5f) * z) +
        1.0f;
    const bool swap = quarter & 1;
    const std::uint32_t x_sign = ((quarter + 1) & 2) << 30, y_sign = (quarter & 2) << 30;
    first = from_bits(bits_of(radius * (swap ? sine : cosine)) ^ x_sign);
    second = from_bits(bits_of(radius * (swap ? cosine : sine)) ^ y_sign);
}

template <typename T>
WS_INLINE void interleave(T* out, const T (&planes)[4][batch], std::size_t columns) {
    if (columns >= 4 * batch) {
        for (std::size_t i = 0; i < batch; ++i)
            for (std::size_t k = 0; k < 4; ++k) out[4 * i + k] = planes[k][i];
        return;
    }
    for (std::size_t j = 0; j < columns; ++j) out[j] = planes[j % 4][j / 4];
}

// Fills the rows; `convert` makes a batch of words into what is stored.
template <typename T, typename Convert>
WS_INLINE void fill(T* out, Position at, Convert convert) {
    Words words;
    alignas(64) T planes[4][batch];
    for (std::size_t row = 0; row < at.rows; ++row, out += at.columns)
        for (std::size_t column = 0; column < at.columns; column += 4 * batch) {
            philox(words, std::uint32_t(column / 4), at.first_row + row, at.key);
            convert(planes, words);
            interleave(out + column, planes, at.columns - column);
        }
}

WS_INLINE void all_bits(std::uint32_t* out, Position at) {
    fill(out, at, [](std::uint32_t (&planes)[4][batch], const Words& words) __attribute__((always_inline)) {
        std::memcpy(planes, words.word, sizeof planes);
    });
}

WS_INLINE void all_normals(float* out, Position at) {
    fill(out, at, [](float (&planes)[4][batch], const Words& words) __attribute__((always_inline)) {
        for (std::size_t k = 0; k < 4; k += 2)
            for (std::size_t i = 0; i < batch; ++i)
                box_muller(planes[k][i], planes[k + 1][i], words.word[k][i], words.word[k + 1][i]);
    });
}

struct Isa {
    const char* name;
    void (*bits)(std::uint32_t*, Position);
    void (*normals)(float*, Position);
};

#define WS_TARGET(suffix, attribute)                                                               \
    attribute void bits_##suffix(std::uint32_t* out, Position at) { all_bits(out, at); }           \
    attribute void normals_##suffix(float* out, Position at) { all_normals(out, at); }

WS_TARGET(baseline, )
#if defined(__x86_64__)
WS_TARGET(avx2, WS_WITH_AVX2)
WS_TARGET(avx512, WS_WITH_AVX512)
#endif

std::vector<Isa> available() {
    std::vector<Isa> found{{"baseline", bits_baseline, normals_baseline}};
#if defined(__x86_64__)
    if (has_avx2()) found.push_back({"avx2", bits_avx2, normals_avx2});
    if (has_avx512()) found.push_back({"avx512", bits_avx512, normals_avx512});
#endif
    return found;
}

Choice<Isa>& choice() {
    static Choice<Isa> chosen{available()};
    return chosen;
}

}  // namespace

void bits(std::uint32_t* out, Position at) { choice().current().bits(out, at); }

void normals(float* out, Position at) { choice().current().normals(out, at); }

std::vector<std::string> isas() { return choice().names(); }

void use_isa(const std::string& name) { choice().use(name); }

}  // namespace weightsmith::draws
