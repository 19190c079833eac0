// Rows side by side, one in every lane: all arithmetic is the same in every lane, so results
// do not depend on the width of the CPU's registers.

constexpr int lanes = WS_LANES;  // as many as fit a register
using Floats = float __attribute__((vector_size(4 * lanes)));
using Ints = std::int32_t __attribute__((vector_size(4 * lanes)));

inline Floats every(float x) { return Floats{} + x; }
inline Floats magnitude(Floats x) { return Floats(Ints(x) & 0x7fffffff); }

// One double in each lane, in two registers: compilers split wider vectors badly.
struct Doubles {
    using Half = double __attribute__((vector_size(4 * lanes)));
    Half half[2];
};
struct Longs {
    using Half = std::int64_t __attribute__((vector_size(4 * lanes)));
    Half half[2];
};

#define WS_BINARY(Result, op)                                       \
    inline Result operator op(const Doubles& a, const Doubles& b) { \
        return {{a.half[0] op b.half[0], a.half[1] op b.half[1]}};  \
    }
WS_BINARY(Doubles, +)
WS_BINARY(Doubles, -)
WS_BINARY(Doubles, *)
WS_BINARY(Doubles, /)
WS_BINARY(Longs, <)
WS_BINARY(Longs, >)
#undef WS_BINARY

inline Doubles all(double x) { return {{Doubles::Half{} + x, Doubles::Half{} + x}}; }
inline Doubles operator*(double x, const Doubles& a) { return all(x) * a; }
inline Doubles& operator+=(Doubles& a, const Doubles& b) { return a = a + b; }
inline Doubles& operator-=(Doubles& a, const Doubles& b) { return a = a - b; }
inline Doubles& operator*=(Doubles& a, const Doubles& b) { return a = a * b; }

inline Doubles select(const Longs& mask, const Doubles& a, const Doubles& b) {
    return {{mask.half[0] ? a.half[0] : b.half[0], mask.half[1] ? a.half[1] : b.half[1]}};
}

inline double lane_of(const Doubles& x, int lane) { return x.half[lane / (lanes / 2)][lane % (lanes / 2)]; }
inline void put(Doubles& x, int lane, double value) {
    x.half[lane / (lanes / 2)][lane % (lanes / 2)] = value;
}

using HalfFloats = float __attribute__((vector_size(2 * lanes)));
using HalfInts = std::int32_t __attribute__((vector_size(2 * lanes)));

inline Doubles wide(Floats x) {
    HalfFloats half[2];
    std::memcpy(half, &x, sizeof(x));
    return {{__builtin_convertvector(half[0], Doubles::Half),
             __builtin_convertvector(half[1], Doubles::Half)}};
}
inline Floats narrow(const Doubles& x) {
    const HalfFloats half[2] = {__builtin_convertvector(x.half[0], HalfFloats),
                                __builtin_convertvector(x.half[1], HalfFloats)};
    Floats joined;
    std::memcpy(&joined, half, sizeof(joined));
    return joined;
}
inline Ints narrow(const Longs& x) {
    const HalfInts half[2] = {__builtin_convertvector(x.half[0], HalfInts),
                              __builtin_convertvector(x.half[1], HalfInts)};
    Ints joined;
    std::memcpy(&joined, half, sizeof(joined));
    return joined;
}

// Aligned scratch, which std::vector does not promise for vector types.
template <typename T>
struct Buffer {
    explicit Buffer(std::size_t size) : items(new (std::align_val_t{alignof(T)}) T[size]) {}
    ~Buffer() { ::operator delete[](items, std::align_val_t{alignof(T)}); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    T& operator[](std::size_t i) { return items[i]; }
    T* data() { return items; }
    T* items;
};

// The rows [first, first + used) of a matrix; the last row stands in for those beyond the end.
struct Strip {
    const float* row[lanes];
    int used;
};

inline Strip strip_of(const float* weights, const Shape& shape, std::size_t first) {
    Strip strip;
    strip.used = int(std::min<std::size_t>(lanes, shape.rows - first));
    for (int lane = 0; lane < lanes; ++lane) {
        const std::size_t row = first + std::size_t(std::min(lane, strip.used - 1));
        strip.row[lane] = weights + row * shape.columns;
    }
    return strip;
}

inline void load_columns(Floats* out, const Strip& strip, std::size_t start, std::size_t size) {
    for (std::size_t j = 0; j < size; ++j)
        for (int lane = 0; lane < lanes; ++lane) out[j][lane] = strip.row[lane][start + j];
}
