// Products of bytes where the CPU has dot products of unsigned with signed ones (WS_DPBUSD): weights
// become unsigned by adding 128, and 128 times the activations' sum is taken away at the end.
struct Bytes {
    using Ints = __m256i;
    using Floats = __m256;
    __m256i sums;
    WS_TARGET WS_INLINE void add(const std::int8_t* w, const std::int8_t* x) {
        const __m256i moved = _mm256_xor_si256(ymm::load(w), _mm256_set1_epi8(char(0x80)));
        sums = WS_DPBUSD(sums, moved, ymm::load(x));
    }
    WS_TARGET WS_INLINE Ints total() const { return sums; }
    WS_TARGET WS_INLINE static Ints join(Ints high, Ints low) { return ymm::joined(high, low); }
    WS_TARGET WS_INLINE static Ints with_offset(Ints n, const std::int32_t* offset) {
        return _mm256_add_epi32(n, _mm256_slli_epi32(ymm::load(offset), 7));
    }
    WS_TARGET WS_INLINE static void fuse(Floats& y, Ints n, float scale) {
        ymm::fuse_into(y, n, _mm256_set1_ps(scale));
    }
    WS_TARGET WS_INLINE static float sum(Floats y) { return ymm::sum(y); }
};
