// Search the scales of each group: several starts, each an alternation of nearest level and least
// squares on what lies above each threshold, and the best one followed to its end.

constexpr int most_iterations = 50;
// Iterations that every start is given before the best one is followed to its end.
constexpr int trial = 4;

// Scales to start from, in units of the group's root mean square. Chosen greedily from a grid, each
// for what it adds to those before it, on normal, heavy-tailed and real groups; see README.md.
struct Start {
    float scales[3];
};
constexpr Start starts_of_one[] = {{{1.2f}}, {{1.6f}}, {{0.9f}}};
constexpr Start starts_of_two[] = {
    {{1.50f, 1.42f}}, {{1.20f, 1.02f}}, {{2.30f, 2.18f}}, {{1.50f, 0.75f}},
    {{1.80f, 1.04f}}, {{1.40f, 0.92f}}, {{1.80f, 0.27f}}, {{1.10f, 0.64f}},
};
constexpr Start starts_of_three[] = {
    {{1.50f, 0.98f, 0.29f}}, {{1.20f, 1.14f, 0.80f}}, {{1.20f, 1.14f, 0.34f}},
    {{1.50f, 1.42f, 1.00f}}, {{1.50f, 0.75f, 0.68f}}, {{1.50f, 0.98f, 0.68f}},
    {{1.20f, 0.78f, 0.23f}}, {{1.50f, 1.42f, 0.43f}}, {{1.50f, 0.52f, 0.37f}},
    {{1.80f, 1.71f, 1.20f}}, {{1.20f, 0.78f, 0.55f}}, {{1.80f, 1.17f, 0.35f}},
};
template <int K>
constexpr const Start* starts_of() {
    return K == 1 ? starts_of_one : K == 2 ? starts_of_two : starts_of_three;
}
constexpr int most_starts[] = {0, 3, 8, 12};

// One group in each lane, scaled by a power of two so that the largest magnitude is in [.5, 1).
struct Group {
    std::size_t size;
    const Floats* weight;     // [size], as given
    const Floats* magnitude;  // [size]
    const Floats* weighted;   // magnitude times importance
    const float* importance;
    Floats to_unit;  // the power of two; 0 for groups too small for float16 scales
    Floats total, square;  // sums of weighted, and of weighted times magnitude
    float importance_total;
};

// Importance and weighted magnitude of all elements above each threshold.
template <int K>
struct Tally {
    Floats count[level_count<K> + 1];
    Floats sum[level_count<K> + 1];
};

template <int first, int M>
inline void tally_some(const Group& group, const Floats* threshold, Floats* counts, Floats* sums) {
    Floats count[M], sum[M], limit[M];
    for (int m = 0; m < M; ++m) {
        count[m] = sum[m] = Floats{};
        limit[m] = threshold[first + m];
    }
    for (std::size_t j = 0; j < group.size; ++j) {
        const Floats x = group.magnitude[j], y = group.weighted[j], h = every(group.importance[j]);
        for (int m = 0; m < M; ++m) {
            const Ints above = x > limit[m];
            count[m] += Floats(above & Ints(h));
            sum[m] += Floats(above & Ints(y));
        }
    }
    for (int m = 0; m < M; ++m) {
        counts[first + m] = count[m];
        sums[first + m] = sum[m];
    }
}

template <int K>
__attribute__((noinline)) Tally<K> tally(const Group& group, const Floats* threshold) {
    constexpr int M = level_count<K>;
    Tally<K> found;
    // As many accumulators at once as there are registers for.
    if constexpr (M <= 4) {
        tally_some<0, M>(group, threshold, found.count, found.sum);
    } else {
        tally_some<0, 7>(group, threshold, found.count, found.sum);
        tally_some<7, 6>(group, threshold, found.count, found.sum);
    }
    found.count[M] = found.sum[M] = Floats{};
    return found;
}

// The normal equations of the scales for elements assigned as tallied.
template <int K>
struct Normal {
    Doubles matrix[K][K];
    Doubles right[K];
};

template <int K>
inline Normal<K> normal_equations(const Levels<K>& levels, const Tally<K>& found) {
    Normal<K> normal{};
    for (int m = 0; m < level_count<K>; ++m) {
        const Doubles count = wide(found.count[m] - found.count[m + 1]);
        const Doubles sum = wide(found.sum[m] - found.sum[m + 1]);
        for (int k = 0; k < K; ++k) {
            const Doubles trit = wide(levels.trit[m][k]);
            normal.right[k] += trit * sum;
            for (int l = 0; l <= k; ++l)
                normal.matrix[k][l] += trit * wide(levels.trit[m][l]) * count;
        }
    }
    return normal;
}

// Largest first, none negative: the set of levels stays the same.
template <int K>
inline void order(Scales<K>& scales) {
    for (int k = 0; k < K; ++k) scales.plane[k] = magnitude(scales.plane[k]);
    for (int last = K - 1; last > 0; --last)
        for (int k = 0; k < last; ++k) {
            Floats &a = scales.plane[k], &b = scales.plane[k + 1];
            const Ints swap = a < b;
            const Floats high = swap ? b : a;
            b = swap ? a : b;
            a = high;
        }
}

// Least squares along the direction of the scales as they are.
template <int K>
inline void stretch(Scales<K>& scales, const Normal<K>& normal) {
    Doubles projection{}, square{};
    for (int k = 0; k < K; ++k) {
        const Doubles a = wide(scales.plane[k]);
        projection += a * normal.right[k];
        for (int l = 0; l <= k; ++l)
            square += (l < k ? 2.0 : 1.0) * a * wide(scales.plane[l]) * normal.matrix[k][l];
    }
    const Longs usable = square > all(0.0);
    const Doubles factor = select(usable, projection / square, all(1.0));
    for (int k = 0; k < K; ++k) scales.plane[k] = narrow(wide(scales.plane[k]) * factor);
}

// Least squares; where the planes cannot be told apart, only the common factor is fitted.
template <int K>
inline void solve(Scales<K>& scales, const Normal<K>& normal) {
    const auto& a = normal.matrix;
    const auto& b = normal.right;
    Doubles determinant, product = a[0][0], x[K];
    for (int k = 1; k < K; ++k) product *= a[k][k];
    if constexpr (K == 1) {
        determinant = a[0][0];
        x[0] = b[0];
    } else if constexpr (K == 2) {
        determinant = a[0][0] * a[1][1] - a[1][0] * a[1][0];
        x[0] = a[1][1] * b[0] - a[1][0] * b[1];
        x[1] = a[0][0] * b[1] - a[1][0] * b[0];
    } else {
        const Doubles c00 = a[1][1] * a[2][2] - a[2][1] * a[2][1];
        const Doubles c10 = a[2][1] * a[2][0] - a[1][0] * a[2][2];
        const Doubles c20 = a[1][0] * a[2][1] - a[1][1] * a[2][0];
        const Doubles c11 = a[0][0] * a[2][2] - a[2][0] * a[2][0];
        const Doubles c21 = a[1][0] * a[2][0] - a[0][0] * a[2][1];
        const Doubles c22 = a[0][0] * a[1][1] - a[1][0] * a[1][0];
        determinant = a[0][0] * c00 + a[1][0] * c10 + a[2][0] * c20;
        x[0] = c00 * b[0] + c10 * b[1] + c20 * b[2];
        x[1] = c10 * b[0] + c11 * b[1] + c21 * b[2];
        x[2] = c20 * b[0] + c21 * b[1] + c22 * b[2];
    }
    const Longs regular = determinant > 1e-9 * product;
    stretch(scales, normal);
    for (int k = 0; k < K; ++k) {
        scales.plane[k] = narrow(select(regular, x[k] / determinant, wide(scales.plane[k])));
    }
}

template <int K>
inline Floats explained(const Scales<K>& scales, const Normal<K>& normal) {
    Doubles sum{};
    for (int k = 0; k < K; ++k) {
        const Doubles a = wide(scales.plane[k]);
        sum += 2.0 * a * normal.right[k];
        for (int l = 0; l <= k; ++l)
            sum -= (l < k ? 2.0 : 1.0) * a * wide(scales.plane[l]) * normal.matrix[k][l];
    }
    return narrow(sum);
}

// Scales, and how much of the group's square they explain.
template <int K>
struct Candidate {
    Scales<K> scales;
    Floats gain;
};

template <int K>
__attribute__((noinline)) void improve(Candidate<K>& candidate, const Normal<K>& normal, bool tied) {
    if (tied) {
        stretch(candidate.scales, normal);
    } else {
        solve(candidate.scales, normal);
    }
    candidate.gain = explained(candidate.scales, normal);
    order(candidate.scales);
}

template <int K>
inline void iterate(Candidate<K>& candidate, const Group& group, bool tied) {
    const Levels<K> levels = levels_of(candidate.scales);
    improve(candidate, normal_equations<K>(levels, tally<K>(group, levels.threshold)), tied);
}

template <int K>
inline Candidate<K> choose(Ints first, const Candidate<K>& a, const Candidate<K>& b) {
    Candidate<K> chosen;
    for (int k = 0; k < K; ++k)
        chosen.scales.plane[k] = first ? a.scales.plane[k] : b.scales.plane[k];
    chosen.gain = first ? a.gain : b.gain;
    return chosen;
}

// Follows a candidate until no scale moves any more; counts the iterations of the first `used` lanes.
template <int K>
inline std::uint64_t converge(Candidate<K>& candidate, const Group& group, bool tied, int used) {
    std::uint64_t iterations = 0;
    for (int t = 0; t < most_iterations; ++t) {
        const Candidate<K> before = candidate;
        iterate(candidate, group, tied);
        Ints moved{};
        for (int k = 0; k < K; ++k)
            moved |= candidate.scales.plane[k] != before.scales.plane[k];
        int moving = 0;
        for (int lane = 0; lane < used; ++lane) moving += moved[lane] != 0;
        iterations += std::uint64_t(moving);
        if (moving == 0) break;
    }
    return iterations;
}

// The start of the paper's algorithm: sign in both planes makes both scales half the mean. Its trit
// step then gives the larger magnitudes to both planes and those around half the mean to one: to the
// first where they are negative, to the second where they are positive (see algorithm1.inl on ties).
inline Candidate<2> start_of_paper(const Group& group) {
    const Floats mean = group.total / group.importance_total;
    const Floats middle = mean * 0.25f, top = mean * 0.75f;
    Floats count[3]{}, sum[3]{};  // of those in both planes, in the first, in the second
    for (std::size_t j = 0; j < group.size; ++j) {
        const Floats x = group.magnitude[j], y = group.weighted[j], h = every(group.importance[j]);
        const Ints both = x > top, some = (x > middle) & ~both, negative = group.weight[j] < 0.0f;
        const Ints member[3] = {both, some & negative, some & ~negative};
        for (int m = 0; m < 3; ++m) {
            count[m] += Floats(member[m] & Ints(h));
            sum[m] += Floats(member[m] & Ints(y));
        }
    }
    Normal<2> normal{};
    for (int k = 0; k < 2; ++k) {
        normal.matrix[k][k] = wide(count[0]) + wide(count[1 + k]);
        normal.right[k] = wide(sum[0]) + wide(sum[1 + k]);
    }
    normal.matrix[1][0] = wide(count[0]);
    Candidate<2> candidate;
    candidate.scales.plane[0] = candidate.scales.plane[1] = mean * 0.5f;
    improve(candidate, normal, false);
    return candidate;
}

// The float16 neighbours of a positive number, itself twice if it is one.
struct Neighbours {
    float value[2];
};
inline Neighbours neighbours_of(float x) {
    const std::uint16_t nearest = F16::narrow(x);
    const float value = F16::widen(nearest);
    if (value == x || nearest >= 0x7c00) return {{value, value}};
    if (value > x) return {{F16::widen(std::uint16_t(nearest - 1)), value}};
    return {{value, F16::widen(std::uint16_t(nearest + 1))}};
}

// Rounds scales, in the units of the weights, to float16: up or down, whichever costs least with the
// weights assigned as they are. Tied ones are rounded by their common unit.
template <int K>
inline void round_scales(Scales<K>& scales, const Group& group, const float* ratio) {
    const Levels<K> levels = levels_of(scales);
    const Normal<K> normal = normal_equations<K>(levels, tally<K>(group, levels.threshold));
    for (int lane = 0; lane < lanes; ++lane) {
        const float factor = group.to_unit[lane];
        Neighbours found[K];
        const int free = ratio == nullptr ? K : 1;
        for (int k = 0; k < free; ++k)
            found[k] = neighbours_of(scales.plane[k][lane] / (ratio ? ratio[k] : 1.0f) / factor);
        double least = HUGE_VAL;
        float best[K]{};
        for (int combination = 0; combination < 1 << free && factor != 0.0f; ++combination) {
            float tried[K];
            double cost = 0.0;
            for (int k = 0; k < K; ++k) {
                tried[k] = ratio ? found[0].value[combination] * ratio[k] * factor
                                 : found[k].value[combination >> k & 1] * factor;
                const double a = tried[k];
                cost -= 2.0 * a * lane_of(normal.right[k], lane);
                for (int l = 0; l <= k; ++l)
                    cost += (l < k ? 2.0 : 1.0) * a * double(tried[l]) *
                            lane_of(normal.matrix[k][l], lane);
            }
            if (combination == 0 || cost < least) {
                least = cost;
                for (int k = 0; k < K; ++k) best[k] = tried[k];
            }
        }
        for (int k = 0; k < K; ++k) scales.plane[k][lane] = best[k];
    }
}

// The weighted squared error with the nearest level for each element.
template <int K>
__attribute__((noinline)) Doubles error_of(const Scales<K>& scales, const Group& group) {
    const Levels<K> levels = levels_of(scales);
    Doubles error{};
    for (std::size_t j = 0; j < group.size; ++j) {
        const Floats x = group.magnitude[j];
        Floats nearest{};
        for (int m = 0; m < level_count<K>; ++m)
            nearest = x > levels.threshold[m] ? levels.value[m] : nearest;
        const Doubles off = wide(x - nearest);
        error += double(group.importance[j]) * (off * off);
    }
    return error;
}

template <int K>
struct Best {
    Scales<K> scales;
    Doubles error;
    Ints ratio;
};

template <int K>
inline void keep_better(Best<K>& best, Scales<K> scales, const Group& group, const float* ratio, int number) {
    round_scales(scales, group, ratio);
    const Doubles error = error_of(scales, group);
    const Longs better = error < best.error;
    // Scales that overflowed make levels that no weight is above.
    const Ints taken = narrow(better) & (scales.plane[0] < every(HUGE_VALF));
    for (int k = 0; k < K; ++k)
        best.scales.plane[k] = taken ? scales.plane[k] : best.scales.plane[k];
    for (int lane = 0; lane < lanes; ++lane)
        if (taken[lane] != 0) put(best.error, lane, lane_of(error, lane));
    best.ratio = taken ? Ints{} + number : best.ratio;
}

template <int K>
inline std::uint64_t fit_group(Best<K>& best, const Group& group, Ratios ratios, int starts, int used) {
    const Floats per_importance = group.square / group.importance_total;
    Floats rms{};
    for (int lane = 0; lane < lanes; ++lane) rms[lane] = std::sqrt(per_importance[lane]);
    best.error = all(HUGE_VAL);
    best.ratio = Ints{};
    for (int k = 0; k < K; ++k) best.scales.plane[k] = every(0.0f);
    std::uint64_t iterations = 0;
    const std::size_t tries = std::max<std::size_t>(1, ratios.count);
    for (std::size_t r = 0; r < tries; ++r) {
        const float* ratio = ratios.count ? ratios.table + r * K : nullptr;
        Candidate<K> leader{};
        for (int s = 0; s < std::min(starts, most_starts[K]); ++s) {
            Candidate<K> candidate;
            const float* given = starts_of<K>()[s].scales;
            for (int k = 0; k < K; ++k)
                candidate.scales.plane[k] = rms * (ratio ? given[0] * ratio[k] / ratio[0] : given[k]);
            for (int t = 0; t < trial; ++t) iterate(candidate, group, ratio != nullptr);
            leader = s == 0 ? candidate : choose(leader.gain >= candidate.gain, leader, candidate);
        }
        iterations += std::uint64_t(trial * used) + converge(leader, group, ratio != nullptr, used);
        keep_better(best, leader.scales, group, ratio, int(r));
    }
    if constexpr (K == 2) {
        if (ratios.count == 0) {
            Candidate<2> paper = start_of_paper(group);
            converge(paper, group, false, used);
            keep_better(best, paper.scales, group, nullptr, 0);
        }
    }
    return iterations;
}

// 2^-e for the largest magnitude m = f 2^e with f in [.5, 1); 0 where float16 has no scale for it.
inline float unit_factor(float largest) {
    if (!(largest >= 0x1p-40f)) return 0.0f;
    const int exponent = int(bits_of(largest) >> 23) - 126;
    return std::ldexp(1.0f, -exponent);
}

template <int K>
inline Fitted fit_rows(float* scales, std::uint8_t* ratio, const float* weights,
                          const float* importance, Shape shape, Ratios ratios, int starts) {
    const std::size_t group_count = shape.groups();
    Buffer<Floats> columns(shape.group), magnitudes(shape.group), weighted(shape.group);
    Fitted total{0, 0};
    for (std::size_t first = 0; first < shape.rows; first += lanes) {
        const Strip strip = strip_of(weights, shape, first);
        for (std::size_t g = 0; g < group_count; ++g) {
            const std::size_t start = g * shape.group;
            Group group{};
            group.size = std::min(shape.group, shape.columns - start);
            group.importance = importance + start;
            load_columns(columns.data(), strip, start, group.size);
            Floats largest{};
            for (std::size_t j = 0; j < group.size; ++j) {
                magnitudes[j] = magnitude(columns[j]);
                largest = magnitudes[j] > largest ? magnitudes[j] : largest;
            }
            for (int lane = 0; lane < lanes; ++lane) group.to_unit[lane] = unit_factor(largest[lane]);
            for (std::size_t j = 0; j < group.size; ++j) {
                magnitudes[j] *= group.to_unit;
                weighted[j] = magnitudes[j] * group.importance[j];
                group.importance_total += group.importance[j];
                group.total += weighted[j];
                group.square += weighted[j] * magnitudes[j];
            }
            group.weight = columns.data();
            group.magnitude = magnitudes.data();
            group.weighted = weighted.data();
            Best<K> best;
            total.iterations += fit_group(best, group, ratios, starts, strip.used);
            for (int lane = 0; lane < strip.used; ++lane) {
                const std::size_t at = (first + std::size_t(lane)) * group_count + g;
                const float factor = group.to_unit[lane];
                for (int k = 0; k < K; ++k)
                    scales[at * K + std::size_t(k)] =
                        factor == 0.0f ? 0.0f : best.scales.plane[k][lane] / factor;
                ratio[at] = std::uint8_t(best.ratio[lane]);
                total.overflows += std::isinf(lane_of(best.error, lane));
            }
        }
    }
    return total;
}
