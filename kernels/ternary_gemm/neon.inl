// AArch64, what every such CPU has: products of 8-bit integers widen to 16 bits, pairs to 32.
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
        WS_INLINE Scales(const Planes& w, std::size_t i, float x) {
            for (int r = 0; r < 4; ++r) s[r] = scale_at(w, i + r) * x;
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
