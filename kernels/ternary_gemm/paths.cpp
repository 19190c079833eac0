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

namespace scalar {

#define WS_TARGET

struct Lanes {
    std::int32_t n[8];
};
struct Floats8 {
    float v[8];
};

WS_INLINE Lanes joined(Lanes high, const Lanes& low) {
    for (int l = 0; l < 8; ++l) high.n[l] = high.n[l] * 128 + low.n[l];
    return high;
}

WS_INLINE void fuse_into(Floats8& y, const Lanes& n, float scale) {
    for (int l = 0; l < 8; ++l) y.v[l] = std::fma(float(n.n[l]), scale, y.v[l]);
}

struct Vector {
    static constexpr int halves = 2;
    static constexpr std::size_t tokens = 4;
    using Codes = const std::uint8_t*;
    using Ints = Lanes;
    using Floats = Floats8;
    struct Field {
        std::int8_t trit[32];
    };
    struct Values {
        const std::int8_t* x;
        explicit Values(const std::int8_t* given) : x(given) {}
    };
    struct Partial {
        Lanes lanes;
        void add(const Field& f, const Values& v) {
            for (int j = 0; j < 32; ++j) lanes.n[j / 4] += f.trit[j] * v.x[j];
        }
        template <int>
        Ints total() const {
            return lanes;
        }
    };
    struct Scales {
        float s[4];
        Scales(const std::uint16_t* alpha, float x) {
            for (int r = 0; r < 4; ++r) s[r] = widen_scale(alpha[r]) * x;
        }
        template <int r>
        float row() const {
            return s[r];
        }
    };
    static Codes load(const std::uint8_t* codes) { return codes; }
    template <int r>
    static Field field(Codes codes) {
        Field result;
        for (int j = 0; j < 32; ++j)
            result.trit[j] = std::int8_t((codes[j] >> (2 * r) & 3) - 1);
        return result;
    }
    static Ints join(const Ints& high, const Ints& low) { return joined(high, low); }
    template <int>
    static Ints with_offset(const Ints& n, const std::int32_t*) {
        return n;
    }
    static void fuse(Floats& y, const Ints& n, float scale) { fuse_into(y, n, scale); }
    static void store(const Floats (&y)[4], float* out) {
        for (int r = 0; r < 4; ++r) out[r] = sum_lanes(y[r].v);
    }
};

struct Bytes {
    using Ints = Lanes;
    using Floats = Floats8;
    Lanes lanes;
    void add(const std::int8_t* w, const std::int8_t* x) {
        for (int j = 0; j < 32; ++j) lanes.n[j / 4] += w[j] * x[j];
    }
    Ints total() const { return lanes; }
    static Ints join(const Ints& high, const Ints& low) { return joined(high, low); }
    static Ints with_offset(const Ints& n, const std::int32_t*) { return n; }
    static void fuse(Floats& y, const Ints& n, float scale) { fuse_into(y, n, scale); }
    static float sum(const Floats& y) { return sum_lanes(y.v); }
};

#include "block.inl"
#undef WS_TARGET

}  // namespace scalar

#if defined(__x86_64__)

// What the paths with 32-byte registers share. The second macro is for what must be inlined.
#define WS_AVX2 __attribute__((target("avx2,fma,f16c")))
#define WS_AVX2_INLINE WS_AVX2 WS_INLINE

namespace ymm {

WS_AVX2_INLINE __m256i load(const void* data) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(data));
}

WS_AVX2_INLINE __m256i joined(__m256i high, __m256i low) {
    return _mm256_add_epi32(_mm256_slli_epi32(high, 7), low);
}

WS_AVX2_INLINE void fuse_into(__m256& y, __m256i n, __m256 scale) {
    y = _mm256_fmadd_ps(_mm256_cvtepi32_ps(n), scale, y);
}

WS_AVX2_INLINE float sum(__m256 y) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Row r of four: what scale is multiplied by, where its integers come 4^r (or less) times too large.
template <int r0, int r1, int r2, int r3>
struct Scales {
    alignas(16) float s[4];
    WS_AVX2_INLINE Scales(const std::uint16_t* alpha, float x) {
        const __m128 unit = _mm_setr_ps(1.0f / (1 << r0), 1.0f / (1 << r1), 1.0f / (1 << r2),
                                        1.0f / (1 << r3));
        const __m128 a = _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(alpha)));
        _mm_store_ps(s, _mm_mul_ps(_mm_mul_ps(a, _mm_set1_ps(x)), unit));
    }
    template <int r>
    WS_AVX2_INLINE __m256 row() const {
        return _mm256_broadcast_ss(s + r);
    }
};

// Four rows in one register of codes.
struct Vector {
    static constexpr int halves = 2;
    static constexpr std::size_t tokens = 2;
    using Codes = __m256i;
    using Field = __m256i;
    using Ints = __m256i;
    using Floats = __m256;
    struct Values {
        __m256i x;
        WS_AVX2_INLINE explicit Values(const std::int8_t* given) : x(ymm::load(given)) {}
    };
    WS_AVX2_INLINE static Codes load(const std::uint8_t* codes) { return ymm::load(codes); }
    WS_AVX2_INLINE static Ints join(Ints high, Ints low) { return joined(high, low); }
    WS_AVX2_INLINE static void fuse(Floats& y, Ints n, __m256 scale) { fuse_into(y, n, scale); }
    WS_AVX2_INLINE static void store(const Floats (&y)[4], float* out) {
        for (int r = 0; r < 4; ++r) out[r] = sum(y[r]);
    }
};

// Products of bytes, exact for all values: as 16-bit integers.
struct Bytes {
    using Ints = __m256i;
    using Floats = __m256;
    __m256i low, high;  // inputs 0 to 15 and 16 to 31 of a strip, two a lane
    WS_AVX2_INLINE static __m256i widen(const std::int8_t* data) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data)));
    }
    WS_AVX2_INLINE void add(const std::int8_t* w, const std::int8_t* x) {
        low = _mm256_add_epi32(low, _mm256_madd_epi16(widen(w), widen(x)));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(widen(w + 16), widen(x + 16)));
    }
    WS_AVX2_INLINE Ints total() const {
        return _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), 0xd8);
    }
    WS_AVX2_INLINE static Ints join(Ints high, Ints low) { return joined(high, low); }
    WS_AVX2_INLINE static Ints with_offset(Ints n, const std::int32_t*) { return n; }
    WS_AVX2_INLINE static void fuse(Floats& y, Ints n, float scale) {
        fuse_into(y, n, _mm256_set1_ps(scale));
    }
    WS_AVX2_INLINE static float sum(Floats y) { return ymm::sum(y); }
};

}  // namespace ymm

#define WS_TARGET WS_AVX2

// No multiplication in the loop: psignb copies, negates or clears, shifts widen.
namespace avx2_psignb {

struct Vector : ymm::Vector {
    struct Partial {
        __m256i even, odd;  // sums of the even and the odd bytes, as 16-bit integers
        WS_AVX2_INLINE void add(Field trits, const Values& v) {
            const __m256i signed_x = _mm256_sign_epi8(v.x, trits);
            even = _mm256_add_epi16(even, _mm256_srai_epi16(_mm256_slli_epi16(signed_x, 8), 8));
            odd = _mm256_add_epi16(odd, _mm256_srai_epi16(signed_x, 8));
        }
        template <int>
        WS_AVX2_INLINE Ints total() const {
            const __m256i pairs = _mm256_add_epi16(even, odd);
            return _mm256_add_epi32(_mm256_srai_epi32(_mm256_slli_epi32(pairs, 16), 16),
                                    _mm256_srai_epi32(pairs, 16));
        }
    };
    using Scales = ymm::Scales<0, 0, 0, 0>;
    // A byte below, at or above zero, where the code is 0, 1 or 2.
    template <int r>
    WS_AVX2_INLINE static Field field(Codes codes) {
        return _mm256_sub_epi8(_mm256_and_si256(codes, _mm256_set1_epi8(char(3 << 2 * r))),
                               _mm256_set1_epi8(char(1 << 2 * r)));
    }
    template <int>
    WS_AVX2_INLINE static Ints with_offset(Ints n, const std::int32_t*) {
        return n;
    }
};
using ymm::Bytes;

#include "block.inl"

}  // namespace avx2_psignb

// Codes 0, 1, 2 stay where they lie in their byte, 4^r times too large, and what is too much by
// 4^r times the activations' sum is taken away at the end. The last row's would not fit 16 bits.
namespace avx2_maddubs {

struct Vector : ymm::Vector {
    struct Partial {
        __m256i sums;  // 16-bit integers: at most 4 strips of 2 * 2 * 16 * 127
        WS_AVX2_INLINE void add(Field codes, const Values& v) {
            sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, v.x));
        }
        template <int>
        WS_AVX2_INLINE Ints total() const {
            return _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
        }
    };
    using Scales = ymm::Scales<0, 2, 4, 4>;
    template <int r>
    WS_AVX2_INLINE static Field field(Codes codes) {
        if (r == 3) codes = _mm256_srli_epi16(codes, 2);
        return _mm256_and_si256(codes, _mm256_set1_epi8(char(3 << (r == 3 ? 4 : 2 * r))));
    }
    template <int r>
    WS_AVX2_INLINE static Ints with_offset(Ints n, const std::int32_t* offset) {
        return _mm256_add_epi32(n, _mm256_slli_epi32(ymm::load(offset), r == 3 ? 4 : 2 * r));
    }
};
using ymm::Bytes;

#include "block.inl"

}  // namespace avx2_maddubs

#undef WS_TARGET
#define WS_TARGET __attribute__((target("avx2,fma,f16c,avxvnni")))
#define WS_DPBUSD _mm256_dpbusd_avx_epi32

namespace avx_vnni {
#include "vnni.inl"

struct Vector : ymm::Vector {
    struct Partial {
        __m256i sums;
        WS_TARGET WS_INLINE void add(Field codes, const Values& v) {
            sums = WS_DPBUSD(sums, codes, v.x);
        }
        template <int>
        WS_TARGET WS_INLINE Ints total() const {
            return sums;
        }
    };
    using Scales = ymm::Scales<0, 2, 4, 6>;
    template <int r>
    WS_TARGET WS_INLINE static Field field(Codes codes) {
        return _mm256_and_si256(codes, _mm256_set1_epi8(char(3 << 2 * r)));
    }
    template <int r>
    WS_TARGET WS_INLINE static Ints with_offset(Ints n, const std::int32_t* offset) {
        return _mm256_add_epi32(n, _mm256_slli_epi32(ymm::load(offset), 2 * r));
    }
};

#include "block.inl"

}  // namespace avx_vnni

#undef WS_TARGET
#undef WS_DPBUSD
#define WS_TARGET \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,prefer-vector-width=512")))
#define WS_DPBUSD _mm256_dpbusd_epi32

// Eight rows in one register of codes: rows r and r + 4 in the halves of its field r.
namespace avx512_vnni {
#include "vnni.inl"

struct Vector {
    static constexpr int halves = 1;
    static constexpr std::size_t tokens = 4;
    using Codes = __m512i;
    using Field = __m512i;
    using Ints = __m512i;
    using Floats = __m512;
    struct Values {
        __m512i x;
        WS_TARGET WS_INLINE explicit Values(const std::int8_t* given)
            : x(_mm512_broadcast_i64x4(ymm::load(given))) {}
    };
    struct Partial {
        __m512i sums;
        WS_TARGET WS_INLINE void add(Field codes, const Values& v) {
            sums = _mm512_dpbusd_epi32(sums, codes, v.x);
        }
        template <int>
        WS_TARGET WS_INLINE Ints total() const {
            return sums;
        }
    };
    struct Scales {
        __m512 s;
        WS_TARGET WS_INLINE Scales(const std::uint16_t* alpha, float x) {
            const __m256 unit = _mm256_setr_ps(1, 1.0f / 4, 1.0f / 16, 1.0f / 64, 1, 1.0f / 4,
                                               1.0f / 16, 1.0f / 64);
            const __m256 a =
                _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(alpha)));
            s = _mm512_castps256_ps512(_mm256_mul_ps(_mm256_mul_ps(a, _mm256_set1_ps(x)), unit));
        }
        template <int r>
        WS_TARGET WS_INLINE __m512 row() const {
            constexpr int h = r + 4;
            return _mm512_permutexvar_ps(
                _mm512_setr_epi32(r, r, r, r, r, r, r, r, h, h, h, h, h, h, h, h), s);
        }
    };
    WS_TARGET WS_INLINE static Codes load(const std::uint8_t* codes) {
        return _mm512_loadu_si512(codes);
    }
    template <int r>
    WS_TARGET WS_INLINE static Field field(Codes codes) {
        return _mm512_and_si512(codes, _mm512_set1_epi8(char(3 << 2 * r)));
    }
    WS_TARGET WS_INLINE static Ints join(Ints high, Ints low) {
        return _mm512_add_epi32(_mm512_slli_epi32(high, 7), low);
    }
    template <int r>
    WS_TARGET WS_INLINE static Ints with_offset(Ints n, const std::int32_t* offset) {
        const __m512i both = _mm512_broadcast_i64x4(ymm::load(offset));
        return _mm512_add_epi32(n, _mm512_slli_epi32(both, 2 * r));
    }
    WS_TARGET WS_INLINE static void fuse(Floats& y, Ints n, __m512 scale) {
        y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(n), scale, y);
    }
    WS_TARGET WS_INLINE static void store(const Floats (&y)[4], float* out) {
        for (int r = 0; r < 4; ++r) {
            out[r] = ymm::sum(_mm512_castps512_ps256(y[r]));
            out[r + 4] = ymm::sum(_mm512_extractf32x8_ps(y[r], 1));
        }
    }
};

#include "block.inl"

}  // namespace avx512_vnni

#undef WS_TARGET
#undef WS_DPBUSD

#elif defined(__aarch64__)

// Baseline of the architecture: products of 8-bit integers widen to 16 bits, pairs of them to 32.
namespace neon {

#define WS_TARGET

struct Lanes {
    int32x4_t low, high;
};
struct Floats8 {
    float32x4_t low, high;
};

WS_INLINE Lanes joined(Lanes high, Lanes low) {
    return {vaddq_s32(vshlq_n_s32(high.low, 7), low.low),
            vaddq_s32(vshlq_n_s32(high.high, 7), low.high)};
}

WS_INLINE void fuse_into(Floats8& y, Lanes n, float scale) {
    y.low = vfmaq_n_f32(y.low, vcvtq_f32_s32(n.low), scale);
    y.high = vfmaq_n_f32(y.high, vcvtq_f32_s32(n.high), scale);
}

WS_INLINE float sum_of(const Floats8& y) {
    const float32x4_t four = vaddq_f32(y.low, y.high);
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

// Sums of pairs of products, four of them for each eight inputs.
struct Pairs {
    int32x4_t sums[4];
    WS_INLINE void add(int8x16_t w0, int8x16_t w1, int8x16_t x0, int8x16_t x1) {
        sums[0] = vpadalq_s16(sums[0], vmull_s8(vget_low_s8(w0), vget_low_s8(x0)));
        sums[1] = vpadalq_s16(sums[1], vmull_high_s8(w0, x0));
        sums[2] = vpadalq_s16(sums[2], vmull_s8(vget_low_s8(w1), vget_low_s8(x1)));
        sums[3] = vpadalq_s16(sums[3], vmull_high_s8(w1, x1));
    }
    WS_INLINE Lanes lanes() const {
        return {vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3])};
    }
};

struct Vector {
    static constexpr int halves = 2;
    static constexpr std::size_t tokens = 2;
    using Ints = Lanes;
    using Floats = Floats8;
    struct Codes {
        uint8x16_t low, high;
    };
    struct Field {
        int8x16_t low, high;
    };
    struct Values {
        int8x16_t low, high;
        WS_INLINE explicit Values(const std::int8_t* given)
            : low(vld1q_s8(given)), high(vld1q_s8(given + 16)) {}
    };
    struct Partial {
        Pairs pairs;
        WS_INLINE void add(const Field& f, const Values& v) {
            pairs.add(f.low, f.high, v.low, v.high);
        }
        template <int>
        WS_INLINE Ints total() const {
            return pairs.lanes();
        }
    };
    struct Scales {
        float s[4];
        WS_INLINE Scales(const std::uint16_t* alpha, float x) {
            for (int r = 0; r < 4; ++r) s[r] = widen_scale(alpha[r]) * x;
        }
        template <int r>
        WS_INLINE float row() const {
            return s[r];
        }
    };
    WS_INLINE static Codes load(const std::uint8_t* codes) {
        return {vld1q_u8(codes), vld1q_u8(codes + 16)};
    }
    template <int r>
    WS_INLINE static int8x16_t trits(uint8x16_t codes) {
        const int8x16_t shift = vdupq_n_s8(-2 * r);
        const uint8x16_t code = vandq_u8(vshlq_u8(codes, shift), vdupq_n_u8(3));
        return vsubq_s8(vreinterpretq_s8_u8(code), vdupq_n_s8(1));
    }
    template <int r>
    WS_INLINE static Field field(const Codes& codes) {
        return {trits<r>(codes.low), trits<r>(codes.high)};
    }
    WS_INLINE static Ints join(Ints high, Ints low) { return joined(high, low); }
    template <int>
    WS_INLINE static Ints with_offset(Ints n, const std::int32_t*) {
        return n;
    }
    WS_INLINE static void fuse(Floats& y, Ints n, float scale) { fuse_into(y, n, scale); }
    WS_INLINE static void store(const Floats (&y)[4], float* out) {
        for (int r = 0; r < 4; ++r) out[r] = sum_of(y[r]);
    }
};

struct Bytes {
    using Ints = Lanes;
    using Floats = Floats8;
    Pairs pairs;
    WS_INLINE void add(const std::int8_t* w, const std::int8_t* x) {
        pairs.add(vld1q_s8(w), vld1q_s8(w + 16), vld1q_s8(x), vld1q_s8(x + 16));
    }
    WS_INLINE Ints total() const { return pairs.lanes(); }
    WS_INLINE static Ints join(Ints high, Ints low) { return joined(high, low); }
    WS_INLINE static Ints with_offset(Ints n, const std::int32_t*) { return n; }
    WS_INLINE static void fuse(Floats& y, Ints n, float scale) { fuse_into(y, n, scale); }
    WS_INLINE static float sum(const Floats& y) { return sum_of(y); }
};

#include "block.inl"
#undef WS_TARGET

}  // namespace neon

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
