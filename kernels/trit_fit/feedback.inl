// GPTQ's order: quantise a column, move its error onto the columns still to come.

template <int K>
inline void feedback_rows(std::int8_t* trits, float* error, float* weights, const float* factor,
                             const float* scales, const std::int32_t* group_of, Shape shape,
                             std::size_t groups) {
    const std::size_t n = shape.columns;
    Buffer<Floats> columns(n);
    Buffer<Levels<K>> levels(groups);
    for (std::size_t first = 0; first < shape.rows; first += lanes) {
        const Strip strip = strip_of(weights, shape, first);
        load_columns(columns.data(), strip, 0, n);
        for (std::size_t g = 0; g < groups; ++g)
            levels[g] = levels_at<K>(scales, first, strip.used, groups, g);
        for (std::size_t j = 0; j < n; ++j) {
            const Nearest<K> found = nearest(levels[std::size_t(group_of[j])], columns[j]);
            const Floats lost = (columns[j] - found.value) / factor[j * n + j];
            for (std::size_t later = j + 1; later < n; ++later)
                columns[later] -= lost * factor[j * n + later];
            for (int lane = 0; lane < strip.used; ++lane) {
                const std::size_t row = first + std::size_t(lane);
                error[row * n + j] = lost[lane];
                weights[row * n + j] = found.value[lane];
                for (int k = 0; k < K; ++k)
                    trits[trit_at(shape, row, k, j)] = std::int8_t(found.trit[k][lane]);
            }
        }
    }
}
