// x86-64: AVX2 (two forms), AVX-VNNI, AVX-512 with VNNI.

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
    WS_AVX2_INLINE Scales(const Planes& w, std::size_t i, float x) {
        const __m128 unit = _mm_setr_ps(1.0f / (1 << r0), 1.0f / (1 << r1), 1.0f / (1 << r2),
                                        1.0f / (1 << r3));
        const __m128 a =
            w.wide ? _mm_loadu_ps(static_cast<const float*>(w.scales) + i)
                   : _mm_cvtph_ps(_mm_loadu_si64(static_cast<const std::uint16_t*>(w.scales) + i));
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
        WS_TARGET WS_INLINE Scales(const Planes& w, std::size_t i, float x) {
            const __m256 unit = _mm256_setr_ps(1, 1.0f / 4, 1.0f / 16, 1.0f / 64, 1, 1.0f / 4,
                                               1.0f / 16, 1.0f / 64);
            const __m256 a =
                w.wide ? _mm256_loadu_ps(static_cast<const float*>(w.scales) + i)
                       : _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(
                             static_cast<const std::uint16_t*>(w.scales) + i)));
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
