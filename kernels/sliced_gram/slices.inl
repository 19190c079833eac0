// From vectors of float32 to tiles of 8-bit digits, and what is cut off meanwhile.

struct alignas(64) Tile {
    __m512i rows[16];
};

// The slices of a piece of up to `depth` elements of every vector, in panels of 32 vectors.
struct Slices {
    std::size_t panels, steps;
    std::vector<Tile> left, right;      // [panels, slices, steps, 2]: what tdpbssd takes first, second
    std::vector<std::uint16_t> filled;  // [panels, slices]: a bit for each step with digits but zero
    std::vector<double> units;          // [vectors, to whole panels]: the value of a last digit
    std::vector<double> cut, total;     // [panels]: squared norms of what is cut off, and of all

    void resize(std::size_t vectors, std::size_t length) {
        panels = (vectors + side - 1) / side;
        steps = (length + span - 1) / span;
        left.resize(panels * slices * steps * 2);
        right.resize(left.size());
        filled.assign(panels * slices, 0);
        units.resize(panels * side);
        cut.assign(panels, 0.0);
        total.assign(panels, 0.0);
    }
    std::size_t at(std::size_t panel, int slice) const {
        return (panel * slices + std::size_t(slice)) * steps * 2;
    }
};

WS_WITH_AMX inline void transpose(__m512i (&r)[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; ++j) {
            r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; ++j) {
            t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xdd);
        }
    for (int i = 0; i < 8; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

// Sixteen vectors of a block from element `first` on, as far as both exist; the rest is zero.
struct Lines {
    Block block;
    std::size_t vector, first, length;

    // x[k] has element first + from + k of each vector.
    WS_WITH_AMX void load(__m512i (&x)[16], std::size_t from) const {
        const std::size_t vectors = std::min(lanes, block.vectors - std::min(block.vectors, vector));
        const std::size_t elements = std::min(lanes, length - std::min(length, from));
        const std::size_t runs = block.by_rows ? vectors : elements;
        const __mmask16 run = __mmask16((1u << (block.by_rows ? elements : vectors)) - 1);
        const std::size_t stride = block.by_rows ? block.length : block.vectors;
        const std::size_t start = first + from;
        const float* at = block.data + (block.by_rows ? vector * stride + start : start * stride + vector);
        for (std::size_t i = 0; i < lanes; ++i)
            x[i] = i < runs ? _mm512_maskz_loadu_epi32(run, at + i * stride) : _mm512_setzero_si512();
        if (block.by_rows) transpose(x);
    }
};

// Four integers in each lane to four quadruples of bytes: bytes[s] has byte s of x[0] .. x[3].
WS_WITH_AMX inline void transpose_bytes(const __m512i (&x)[4], __m512i (&bytes)[4]) {
    const __m512i even = _mm512_set1_epi32(0x00ff00ff), low = _mm512_set1_epi32(0x0000ffff);
    __m512i pairs[2][2];  // [first or last two integers][even or odd bytes]
    for (int i = 0; i < 2; ++i) {
        const __m512i a = x[2 * i], b = x[2 * i + 1];
        pairs[i][0] = _mm512_or_si512(_mm512_and_si512(even, a),
                                      _mm512_slli_epi32(_mm512_and_si512(even, b), 8));
        pairs[i][1] = _mm512_or_si512(_mm512_and_si512(even, _mm512_srli_epi32(a, 8)),
                                      _mm512_andnot_si512(even, b));
    }
    for (int odd = 0; odd < 2; ++odd) {
        const __m512i a = pairs[0][odd], b = pairs[1][odd];
        bytes[odd] = _mm512_or_si512(_mm512_and_si512(low, a), _mm512_slli_epi32(b, 16));
        bytes[odd + 2] = _mm512_or_si512(_mm512_srli_epi32(a, 16), _mm512_andnot_si512(low, b));
    }
}

// Slices of sixteen vectors: half a panel.
WS_WITH_AMX void slice(Slices& s, const Lines& lines, std::size_t panel, std::size_t half) {
    __m512i x[16], top = _mm512_setzero_si512();
    for (std::size_t k = 0; k < lines.length; k += 16) {
        lines.load(x, k);
        for (const __m512i& each : x)
            top = _mm512_max_epi32(top, _mm512_and_si512(each, _mm512_set1_epi32(0x7fffffff)));
    }
    // The largest magnitude, 2^(e - 127) at least and less than twice that, comes below 2^30.
    const __m512i power = _mm512_sub_epi32(_mm512_set1_epi32(156), _mm512_srli_epi32(top, 23));
    const __m512 scale = _mm512_cvtepi32_ps(power);
    // With half a digit added, bytes are balanced digits, but for their highest bit.
    const __m512i halves = _mm512_set1_epi32(std::int32_t(0x80808080));
    __m512 cut = _mm512_setzero_ps(), total = cut;
    for (std::size_t step = 0; step < s.steps; ++step) {
        Tile tiles[slices];
        for (std::size_t part = 0; part < 4; ++part) {
            lines.load(x, step * span + part * 16);
            for (std::size_t k = 0; k < 16; ++k) {
                const __m512 value = _mm512_scalef_ps(_mm512_castsi512_ps(x[k]), scale);
                x[k] = _mm512_cvtps_epi32(value);
                const __m512 rest = _mm512_sub_ps(value, _mm512_cvtepi32_ps(x[k]));
                cut = _mm512_fmadd_ps(rest, rest, cut);
                total = _mm512_fmadd_ps(value, value, total);
                x[k] = _mm512_xor_si512(_mm512_add_epi32(x[k], halves), halves);
            }
            for (std::size_t k = 0; k < 16; k += 4) {
                const __m512i four[4] = {x[k], x[k + 1], x[k + 2], x[k + 3]};
                __m512i bytes[4];
                transpose_bytes(four, bytes);
                for (int i = 0; i < slices; ++i) tiles[i].rows[part * 4 + k / 4] = bytes[3 - i];
            }
        }
        for (int i = 0; i < slices; ++i) {
            const std::size_t at = s.at(panel, i) + step * 2 + half;
            __m512i any = _mm512_setzero_si512();
            for (const __m512i& row : tiles[i].rows) any = _mm512_or_si512(any, row);
            if (_mm512_test_epi32_mask(any, any))
                s.filled[panel * slices + std::size_t(i)] |= std::uint16_t(1u << step);
            std::copy_n(tiles[i].rows, 16, s.right[at].rows);
            transpose(tiles[i].rows);
            std::copy_n(tiles[i].rows, 16, s.left[at].rows);
        }
    }
    alignas(64) float cuts[lanes], totals[lanes];
    alignas(64) std::int32_t powers[lanes];
    _mm512_store_ps(cuts, cut);
    _mm512_store_ps(totals, total);
    _mm512_store_si512(powers, power);
    for (std::size_t i = 0; i < lanes; ++i) {
        const double unit = std::ldexp(1.0, -powers[i]);
        s.units[panel * side + half * lanes + i] = unit;
        s.cut[panel] += double(cuts[i]) * unit * unit;
        s.total[panel] += double(totals[i]) * unit * unit;
    }
}
