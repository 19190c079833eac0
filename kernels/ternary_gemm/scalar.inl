// Any CPU: what the other paths are compared with.
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
        Scales(const Planes& w, std::size_t i, float x) {
            for (int r = 0; r < 4; ++r) s[r] = scale_at(w, i + r) * x;
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
