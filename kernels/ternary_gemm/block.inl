// The loops of one code path. paths.cpp includes this file once for each, inside a namespace that has
//
//   WS_TARGET   the function attributes
//   Vector      codes, partial sums and float lanes of four rows (or of eight) in registers
//   Bytes       the same for one row of 8-bit integers
//
// Whatever the path, the products of a span are summed as integers in 8 lanes (lane l has inputs 4 l
// to 4 l + 3 of every strip), then fused into 8 float lanes: all paths give the same bits.

// Partial sums of one plane over some strips, for T tokens.
template <int parts, int T>
WS_TARGET WS_INLINE void accumulate(Vector::Partial (&sum)[T][parts][4], const std::uint8_t* codes,
                                    std::size_t step, std::size_t strips, const Tokens<T>& x,
                                    std::size_t strip) {
    for (std::size_t i = 0; i < strips; ++i) {
        const Vector::Codes c = Vector::load(codes + i * step);
        const Vector::Field field[4] = {Vector::field<0>(c), Vector::field<1>(c),
                                        Vector::field<2>(c), Vector::field<3>(c)};
        for (int t = 0; t < T; ++t)
            for (int p = 0; p < parts; ++p) {
                const Vector::Values values(x.values[t][p] + (strip + i) * strip_inputs);
                for (int r = 0; r < 4; ++r) sum[t][p][r].add(field[r], values);
            }
    }
}

template <int r, int parts>
WS_TARGET WS_INLINE void fuse(Vector::Floats& y, const Vector::Partial (&sum)[parts][4],
                              const std::int32_t* offset, const Vector::Scales& scales) {
    Vector::Ints n = sum[0][r].template total<r>();
    if (parts == 2) n = Vector::join(n, sum[parts - 1][r].template total<r>());
    Vector::fuse(y, Vector::with_offset<r>(n, offset), scales.template row<r>());
}

// Rows 8 block to 8 block + 7 of T tokens; out is [T][8].
template <int parts, int T>
WS_TARGET WS_INLINE void block_of(const Planes& w, std::size_t block, const Tokens<T>& x, float* out) {
    const std::size_t all = w.strips(), spans = w.spans(), wide = w.span / strip_inputs;
    const std::size_t planes = std::size_t(w.planes), step = 64 * planes;
    const std::uint8_t* const codes = w.codes + block * all * step;
    for (int half = 0; half < Vector::halves; ++half) {
        Vector::Floats y[T][4] = {};
        for (std::size_t s = 0; s < spans; ++s) {
            const std::size_t strip = s * wide, here = all - strip < wide ? all - strip : wide;
            for (std::size_t k = 0; k < planes; ++k) {
                const std::uint8_t* const first = codes + strip * step + k * 64 + half * 32;
                for (std::size_t i = 0; i < here; ++i) __builtin_prefetch(first + i * step + ahead);
                Vector::Partial sum[T][parts][4] = {};
                if (here == 4)
                    accumulate<parts, T>(sum, first, step, 4, x, strip);
                else
                    accumulate<parts, T>(sum, first, step, here, x, strip);
                const std::size_t alpha = ((block * spans + s) * planes + k) * 8 + half * 4;
                for (int t = 0; t < T; ++t) {
                    const Vector::Scales a(w, alpha, x.scales[t][s]);
                    const std::int32_t* const offset = x.offsets[t] + s * 8;
                    fuse<0, parts>(y[t][0], sum[t], offset, a);
                    fuse<1, parts>(y[t][1], sum[t], offset, a);
                    fuse<2, parts>(y[t][2], sum[t], offset, a);
                    fuse<3, parts>(y[t][3], sum[t], offset, a);
                }
            }
        }
        for (int t = 0; t < T; ++t) Vector::store(y[t], out + t * 8 + half * 4);
    }
}

template <int parts>
WS_TARGET void planes_of(const Planes& w, std::size_t first, std::size_t last, const Quantized& x,
                         float* y) {
    for (std::size_t block = first; block < last; ++block) {
        const std::size_t row = block * 8, count = w.rows - row < 8 ? w.rows - row : 8;
        for (std::size_t token = 0; token < x.tokens;) {
            float out[Vector::tokens][8];
            const bool several = x.tokens - token >= Vector::tokens;
            if (several)
                block_of<parts, Vector::tokens>(w, block, x.at<Vector::tokens>(token), out[0]);
            else
                block_of<parts, 1>(w, block, x.at<1>(token), out[0]);
            const std::size_t taken = several ? Vector::tokens : 1;
            for (std::size_t t = 0; t < taken; ++t, ++token)
                std::memcpy(y + token * w.rows + row, out[t], count * sizeof(float));
        }
    }
}

template <int parts>
WS_TARGET void rows_of(const Rows& w, std::size_t first, std::size_t last, const Quantized& x,
                       float* y) {
    const std::size_t spans = ceil_div(w.inputs, x.span);
    for (std::size_t row = first; row < last; ++row) {
        const std::int8_t* const values = w.values + row * w.inputs;
        for (std::size_t token = 0; token < x.tokens; ++token) {
            const Tokens<1> given = x.at<1>(token);
            Bytes::Floats sum{};
            for (std::size_t s = 0; s < spans; ++s) {
                const std::size_t begin = s * x.span;
                const std::size_t end = begin + x.span < w.inputs ? begin + x.span : w.inputs;
                Bytes part[parts] = {};
                std::size_t i = begin;
                __builtin_prefetch(values + i + ahead);
                __builtin_prefetch(values + i + ahead + 64);
                for (; i + strip_inputs <= end; i += strip_inputs)
                    for (int p = 0; p < parts; ++p)
                        part[p].add(values + i, given.values[0][p] + i);
                if (i < end) {
                    std::int8_t padded[strip_inputs] = {};
                    std::memcpy(padded, values + i, end - i);
                    for (int p = 0; p < parts; ++p) part[p].add(padded, given.values[0][p] + i);
                }
                Bytes::Ints n = part[0].total();
                if (parts == 2) n = Bytes::join(n, part[parts - 1].total());
                n = Bytes::with_offset(n, given.offsets[0] + s * 8);
                Bytes::fuse(sum, n, given.scales[0][s]);
            }
            y[token * w.rows + row] = widen_f16(w.scales[row]) * Bytes::sum(sum);
        }
    }
}

// One row of one strip; lane l of part b has input 4 l + b, whose code is in byte b of word l. x is
// taken away where the code is 2 once its sign is flipped, as it is where the code is 0, and not at
// all where it is 1: additions and subtractions only.
template <int r>
WS_TARGET WS_INLINE void take(Float8 (&sum)[4], Word8 codes, const Float8 (&x)[4]) {
    for (int b = 0; b < 4; ++b) {
        const Word8 top = codes << (30 - 2 * r - 8 * b);
        const Word8 skip = Word8(Int8(top << 1) >> 31);
        sum[b] -= Float8((Word8(x[b]) ^ (top & 0x80000000)) & ~skip);
    }
}

template <int r>
WS_TARGET WS_INLINE void add_scaled(Float8 (&y)[4][4], const Float8 (&sum)[4][4],
                                    const Planes& w, std::size_t alpha) {
    const float scale = scale_at(w, alpha + r);
    for (int b = 0; b < 4; ++b) y[r][b] += scale * sum[r][b];
}

// x is [tokens, strips, 4, 8], as `take` wants it.
WS_TARGET void floats_of(const Planes& w, std::size_t first, std::size_t last, const float* x,
                         std::size_t tokens, float* y) {
    const std::size_t all = w.strips(), spans = w.spans(), wide = w.span / strip_inputs;
    const std::size_t planes = std::size_t(w.planes), step = 64 * planes;
    for (std::size_t unit = first * 2; unit < last * 2; ++unit)
        for (std::size_t token = 0; token < tokens; ++token) {
            const std::size_t block = unit / 2, half = unit % 2;
            const std::uint8_t* const codes = w.codes + block * all * step + half * 32;
            const float* const values = x + token * all * strip_inputs;
            Float8 total[4][4] = {};
            for (std::size_t s = 0; s < spans; ++s)
                for (std::size_t k = 0; k < planes; ++k) {
                    const std::size_t end = (s + 1) * wide < all ? (s + 1) * wide : all;
                    Float8 sum[4][4] = {};
                    for (std::size_t i = s * wide; i < end; ++i) {
                        Word8 code;
                        Float8 given[4];
                        std::memcpy(&code, codes + i * step + k * 64, sizeof code);
                        std::memcpy(given, values + i * strip_inputs, sizeof given);
                        take<0>(sum[0], code, given);
                        take<1>(sum[1], code, given);
                        take<2>(sum[2], code, given);
                        take<3>(sum[3], code, given);
                    }
                    const std::size_t alpha = ((block * spans + s) * planes + k) * 8 + half * 4;
                    add_scaled<0>(total, sum, w, alpha);
                    add_scaled<1>(total, sum, w, alpha);
                    add_scaled<2>(total, sum, w, alpha);
                    add_scaled<3>(total, sum, w, alpha);
                }
            for (std::size_t r = 0; r < 4 && unit * 4 + r < w.rows; ++r) {
                const Float8 lanes = (total[r][0] + total[r][2]) + (total[r][1] + total[r][3]);
                float eight[8];
                std::memcpy(eight, &lanes, sizeof eight);
                y[token * w.rows + unit * 4 + r] = sum_lanes(eight);
            }
        }
}

// x is [tokens, strips, 32].
WS_TARGET void floats_of(const Rows& w, std::size_t first, std::size_t last, const float* x,
                         std::size_t tokens, float* y) {
    const std::size_t all = ceil_div(w.inputs, strip_inputs);
    for (std::size_t row = first; row < last; ++row)
        for (std::size_t token = 0; token < tokens; ++token) {
            const std::int8_t* const values = w.values + row * w.inputs;
            const float* const given = x + token * all * strip_inputs;
            float sum[strip_inputs] = {};
            std::size_t i = 0;
            for (; i + strip_inputs <= w.inputs; i += strip_inputs)
                for (std::size_t j = 0; j < strip_inputs; ++j)
                    sum[j] += float(values[i + j]) * given[i + j];
            for (std::size_t j = 0; i + j < w.inputs; ++j)
                sum[j] += float(values[i + j]) * given[i + j];
            float lanes[8];
            for (std::size_t l = 0; l < 8; ++l)
                lanes[l] = (sum[l] + sum[l + 16]) + (sum[l + 8] + sum[l + 24]);
            y[token * w.rows + row] = widen_f16(w.scales[row]) * sum_lanes(lanes);
        }
}

// One block's rows as float32; out has w.inputs columns and `count` rows.
WS_TARGET void values_of(const Planes& w, std::size_t block, std::size_t count, float* out) {
    const std::size_t all = w.strips(), spans = w.spans(), planes = std::size_t(w.planes);
    for (std::size_t r = 0; r < count; ++r) {
        const std::uint8_t* const codes = w.codes + block * all * 64 * planes + r / 4 * 32;
        const int shift = int(r % 4 * 2);
        for (std::size_t i = 0; i < all; ++i) {
            float sum[strip_inputs] = {};
            for (std::size_t k = 0; k < planes; ++k) {
                const std::uint8_t* const here = codes + (i * planes + k) * 64;
                const std::size_t s = i * strip_inputs / w.span;
                const float scale = scale_at(w, ((block * spans + s) * planes + k) * 8 + r);
                for (std::size_t j = 0; j < strip_inputs; ++j)
                    sum[j] += float(int(here[j] >> shift & 3) - 1) * scale;
            }
            const std::size_t begin = i * strip_inputs, left = w.inputs - begin;
            std::memcpy(out + r * w.inputs + begin, sum,
                        (left < strip_inputs ? left : strip_inputs) * sizeof(float));
        }
    }
}

// One token's activations: in each span the largest becomes 127 (one part) or 127 * 128 + 63 (two).
WS_TARGET void quantize(const float* x, std::size_t inputs, Quantized& q, std::size_t token) {
    const float limit = q.parts == 2 ? 16319.0f : 127.0f;
    const std::size_t padded = ceil_div(inputs, strip_inputs) * strip_inputs;
    for (std::size_t s = 0, begin = 0; begin < inputs; ++s, begin += q.span) {
        const std::size_t end = begin + q.span < inputs ? begin + q.span : inputs;
        const std::size_t stop = begin + q.span < padded ? begin + q.span : padded;
        float given[max_span] = {};
        std::memcpy(given, x + begin, (end - begin) * sizeof(float));
        std::uint32_t largest = 0;
        for (std::size_t i = 0; i < max_span; ++i) {
            const std::uint32_t magnitude = bits_of(given[i]) & 0x7fffffff;
            largest = magnitude > largest ? magnitude : largest;
        }
        const float peak = from_bits(largest);
        const bool finite = largest < 0x7f800000, some = finite && peak >= least_peak;
        const float inverse = some ? limit / peak : 0.0f;
        q.scales[token * q.spans + s] = some ? peak / limit : finite ? 0.0f : from_bits(0x7fc00000);
        std::int32_t whole[max_span];
        for (std::size_t i = 0; i < max_span; ++i) {
            // Adding and taking away 1.5 * 2^23 rounds to nearest even, on any CPU.
            const float rounded = (given[i] * inverse + 0x1.8p23f) - 0x1.8p23f;
            whole[i] = some ? std::int32_t(rounded) : 0;
        }
        std::int8_t* const high = q.values[0].data() + token * padded + begin;
        if (q.parts == 2) {
            std::int8_t* const low = q.values[1].data() + token * padded + begin;
            for (std::size_t i = 0; i < stop - begin; ++i) {
                const std::int32_t rest = ((whole[i] + 64) & 127) - 64;
                low[i] = std::int8_t(rest);
                high[i] = std::int8_t((whole[i] - rest) >> 7);
            }
        } else {
            for (std::size_t i = 0; i < stop - begin; ++i) high[i] = std::int8_t(whole[i]);
        }
        std::int32_t* const offset = q.offsets.data() + (token * q.spans + s) * 8;
        for (std::size_t l = 0; l < 8; ++l) {
            std::int32_t sum = 0;
            for (std::size_t i = l * 4; i < max_span; i += strip_inputs)
                sum += whole[i] + whole[i + 1] + whole[i + 2] + whole[i + 3];
            offset[l] = -sum;
        }
    }
}

constexpr Path path = {planes_of<1>, planes_of<2>, rows_of<1>, rows_of<2>,
                       floats_of,    floats_of,    values_of,  quantize};
