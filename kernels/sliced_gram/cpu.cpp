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

#include "slices.inl"

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
