// Slices and their products with AMX. What is summed is integer and exact, and an element of the Gram
// matrix is one thread's alone, so no bit depends on the number of threads.

#include "cpu.hpp"

#include <algorithm>
#include <limits>

#if !defined(WS_AMX)

namespace weightsmith::sliced_gram {

bool available() { return false; }
double add(double*, Block, unsigned) { return std::numeric_limits<double>::quiet_NaN(); }

}  // namespace weightsmith::sliced_gram

#else

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "../choice.hpp"
#include "../threads.hpp"

#define WS_WITH_AMX                                                                                \
    __attribute__((target(                                                                         \
        "avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512,amx-tile,amx-int8")))

namespace weightsmith::sliced_gram {
namespace {

constexpr int slices = 4;
constexpr std::size_t depth = 1024;  // elements of a vector whose products are summed in int32
constexpr std::size_t lanes = 16;    // vectors in a tile
constexpr std::size_t side = 2 * lanes;
constexpr std::size_t span = 64;     // elements of each of them in a tile
static_assert(depth <= 16 * span, "steps have bits in 16");
constexpr std::size_t chunk = 8;     // panels whose slices stay in the second-level cache

// The shapes of all tiles: 16 rows of 64 bytes.
constexpr struct alignas(64) {
    std::uint8_t palette = 1, start = 0, reserved[14] = {};
    std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
} shapes;

struct alignas(64) Tile {
    __m512i rows[16];
};

// The slices of a piece of up to `depth` elements of every vector, in panels of 32 vectors.
struct Slices {
    std::size_t panels, steps;
    std::vector<Tile> left, right;     // [panels, slices, steps, 2]: what tdpbssd takes first, second
    std::vector<std::uint16_t> filled; // [panels, slices]: a bit for each step with digits not zero
    std::vector<double> units;         // [vectors, to whole panels]: the value of a last digit
    std::vector<double> cut, total;    // [panels]: squared norms of what is cut off, and of all

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

// Four integers in each lane to four quadruples of bytes: first[s] has byte s of x[0] .. x[3].
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

// Inner products of the vectors of panel i with those of panel j, in units of both.
WS_WITH_AMX void multiply(const Slices& s, std::size_t i, std::size_t j, double (&product)[side][side]) {
    alignas(64) std::int32_t sums[side][side];
    for (auto& row : product) std::fill(row, row + side, 0.0);
    // From the least significant sums to the most significant ones.
    for (int level = 2 * slices - 2; level >= 0; --level) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        bool any = false;
        for (int a = std::max(0, level - slices + 1); a <= std::min(level, slices - 1); ++a) {
            const int b = level - a;
            const Tile* const left = s.left.data() + s.at(i, a);
            const Tile* const right = s.right.data() + s.at(j, b);
            unsigned steps = s.filled[i * slices + std::size_t(a)] & s.filled[j * slices + std::size_t(b)];
            any = any || steps;
            for (; steps; steps &= steps - 1) {
                const int at = 2 * __builtin_ctz(steps);
                _tile_loadd(4, left + at, 64);
                _tile_loadd(6, right + at, 64);
                _tile_loadd(7, right + at + 1, 64);
                _tile_dpbssd(0, 4, 6);
                _tile_dpbssd(1, 4, 7);
                _tile_loadd(5, left + at + 1, 64);
                _tile_dpbssd(2, 5, 6);
                _tile_dpbssd(3, 5, 7);
            }
        }
        if (!any) continue;
        _tile_stored(0, &sums[0][0], sizeof sums[0]);
        _tile_stored(1, &sums[0][lanes], sizeof sums[0]);
        _tile_stored(2, &sums[lanes][0], sizeof sums[0]);
        _tile_stored(3, &sums[lanes][lanes], sizeof sums[0]);
        const double weight = double(std::int64_t(1) << 8 * (2 * slices - 2 - level));
        for (std::size_t r = 0; r < side; ++r)
            for (std::size_t c = 0; c < side; ++c) product[r][c] += double(sums[r][c]) * weight;
    }
}

// Adds the products of the panels from `row` to `row_end` with those from `first` to `last`, above the
// diagonal.
WS_WITH_AMX void add_products(double* gram, std::size_t size, const Slices& s, std::size_t row,
                              std::size_t row_end, std::size_t first, std::size_t last) {
    alignas(64) double product[side][side];
    _tile_loadconfig(&shapes);
    for (std::size_t i = row; i < row_end; ++i)
        for (std::size_t j = std::max(i, first); j < last; ++j) {
            const std::size_t rows = std::min(side, size - i * side);
            const std::size_t columns = std::min(side, size - j * side);
            double* const target = gram + i * side * size + j * side;
            for (std::size_t r = 0; r < rows; ++r)
                for (std::size_t c = 0; c < columns; c += 8)
                    __builtin_prefetch(target + r * size + c, 1);
            multiply(s, i, j, product);
            for (std::size_t r = 0; r < rows; ++r)
                for (std::size_t c = 0; c < columns; ++c)
                    target[r * size + c] +=
                        product[r][c] * s.units[i * side + r] * s.units[j * side + c];
        }
    _tile_release();
}

}  // namespace

bool available() {
    // Linux gives a process the registers of tiles when it asks for them.
    constexpr long ask = 0x1023, tile_data = 18;
    static const bool found = [] {
        unsigned a, b, c, d;
        constexpr unsigned amx_tile = 1u << 24, amx_int8 = 1u << 25;
        return has_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & amx_tile) &&
               (d & amx_int8) && syscall(SYS_arch_prctl, ask, tile_data) == 0;
    }();
    return found;
}

double add(double* gram, Block block, unsigned threads) {
    thread_local Slices scratch;
    Slices& s = scratch;
    double worst = 0.0;
    for (std::size_t first = 0; first < block.length; first += depth) {
        const std::size_t length = std::min(depth, block.length - first);
        s.resize(block.vectors, length);
        parallel(s.panels, threads, [&](std::size_t panel, std::size_t last) {
            for (; panel < last; ++panel)
                for (std::size_t half = 0; half < 2; ++half)
                    slice(s, {block, panel * side + half * lanes, first, length}, panel, half);
        });
        for (std::size_t begin = 0; begin < s.panels; begin += chunk) {
            const std::size_t end = std::min(begin + chunk, s.panels);
            parallel(end, threads, [&](std::size_t row, std::size_t row_end) {
                add_products(gram, block.vectors, s, row, row_end, begin, end);
            });
        }
        double cut = 0.0, total = 0.0;
        for (std::size_t panel = 0; panel < s.panels; ++panel) {
            cut += s.cut[panel];
            total += s.total[panel];
        }
        const double share = cut == 0.0 ? 0.0 : cut / total;
        if (std::isnan(share)) return share;
        worst = std::max(worst, share);
    }
    return worst;
}

}  // namespace weightsmith::sliced_gram

#endif
