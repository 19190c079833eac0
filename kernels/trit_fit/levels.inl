// The magnitudes that sums of scaled trits can take, and the nearest one to a weight.

template <int K>
constexpr int level_count = K == 1 ? 1 : K == 2 ? 4 : 13;

// Combinations of trits whose first one is not zero and positive; the others are their negatives.
constexpr int combinations[13][3] = {
    {1, 0, 0},  {0, 1, 0},   {1, -1, 0}, {1, 1, 0},  {0, 0, 1},  {0, 1, -1}, {0, 1, 1},
    {1, 0, -1}, {1, -1, -1}, {1, -1, 1}, {1, 0, 1},  {1, 1, -1}, {1, 1, 1},
};

template <int K>
struct Scales {
    Floats plane[K];
};

// The magnitudes a weight can take, in rising order, and the trits that make them.
template <int K>
struct Levels {
    Floats value[level_count<K>];
    Floats trit[level_count<K>][K];
    Floats threshold[level_count<K>];  // a magnitude above it is nearer to this level than below
};

template <int K>
__attribute__((noinline)) Levels<K> levels_of(const Scales<K>& scales) {
    constexpr int M = level_count<K>;
    Levels<K> levels;
    for (int m = 0; m < M; ++m) {
        const int* code = combinations[m];
        Floats value = scales.plane[0] * float(code[0]);
        for (int k = 1; k < K; ++k) value = value + scales.plane[k] * float(code[k]);
        const Ints flip = value < 0.0f;
        levels.value[m] = magnitude(value);
        for (int k = 0; k < K; ++k)
            levels.trit[m][k] = flip ? every(float(-code[k])) : every(float(code[k]));
    }
    for (int last = M - 1; last > 0; --last)
        for (int m = 0; m < last; ++m) {
            const Ints swap = levels.value[m] > levels.value[m + 1];
            const auto exchange = [&](Floats& a, Floats& b) {
                const Floats low = swap ? b : a;
                b = swap ? a : b;
                a = low;
            };
            exchange(levels.value[m], levels.value[m + 1]);
            for (int k = 0; k < K; ++k) exchange(levels.trit[m][k], levels.trit[m + 1][k]);
        }
    Floats below{};
    for (int m = 0; m < M; ++m) {
        levels.threshold[m] = (below + levels.value[m]) * 0.5f;
        below = levels.value[m];
    }
    return levels;
}

template <int K>
inline Levels<K> levels_at(const float* scales, std::size_t first, int used, std::size_t groups, std::size_t g) {
    Scales<K> here;
    for (int lane = 0; lane < lanes; ++lane) {
        const std::size_t row = first + std::size_t(std::min(lane, used - 1));
        for (int k = 0; k < K; ++k)
            here.plane[k][lane] = scales[(row * groups + g) * K + std::size_t(k)];
    }
    return levels_of(here);
}

// The level nearest to each weight, with the weight's sign, and its trits.
template <int K>
struct Nearest {
    Floats value;
    Floats trit[K];
};

template <int K>
inline Nearest<K> nearest(const Levels<K>& levels, Floats weight) {
    const Floats x = magnitude(weight);
    Nearest<K> found;
    found.value = every(0.0f);
    for (int k = 0; k < K; ++k) found.trit[k] = every(0.0f);
    for (int m = 0; m < level_count<K>; ++m) {
        const Ints above = x > levels.threshold[m];
        found.value = above ? levels.value[m] : found.value;
        for (int k = 0; k < K; ++k) found.trit[k] = above ? levels.trit[m][k] : found.trit[k];
    }
    const Ints negative = weight < 0.0f;
    found.value = negative ? -found.value : found.value;
    for (int k = 0; k < K; ++k) found.trit[k] = negative ? -found.trit[k] : found.trit[k];
    return found;
}

// Where the trits of one row, plane and column are.
inline std::size_t trit_at(const Shape& shape, std::size_t row, int plane, std::size_t column) {
    return (row * std::size_t(shape.planes) + std::size_t(plane)) * shape.columns + column;
}
