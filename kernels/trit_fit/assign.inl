// Give every weight its nearest level.

template <int K>
inline Assigned assign_rows(std::int8_t* trits, const float* weights, const float* scales, Shape shape) {
    Buffer<Floats> columns(shape.group), chosen(shape.group * K);
    Assigned total{0.0, 0.0, 0};
    for (std::size_t first = 0; first < shape.rows; first += lanes) {
        const Strip strip = strip_of(weights, shape, first);
        for (std::size_t g = 0; g < shape.groups(); ++g) {
            const std::size_t start = g * shape.group;
            const std::size_t size = std::min(shape.group, shape.columns - start);
            const Levels<K> levels = levels_at<K>(scales, first, strip.used, shape.groups(), g);
            load_columns(columns.data(), strip, start, size);
            Doubles error{}, norm{};
            Ints zeros{};
            for (std::size_t j = 0; j < size; ++j) {
                const Nearest<K> found = nearest(levels, columns[j]);
                const Doubles off = wide(columns[j] - found.value), weight = wide(columns[j]);
                error += off * off;
                norm += weight * weight;
                for (int k = 0; k < K; ++k) {
                    chosen[j * K + std::size_t(k)] = found.trit[k];
                    zeros -= found.trit[k] == 0.0f;
                }
            }
            for (int lane = 0; lane < strip.used; ++lane) {
                total.error += lane_of(error, lane);
                total.norm += lane_of(norm, lane);
                total.zeros += std::uint64_t(zeros[lane]);
                for (int k = 0; k < K; ++k) {
                    std::int8_t* out = trits + trit_at(shape, first + std::size_t(lane), k, start);
                    for (std::size_t j = 0; j < size; ++j)
                        out[j] = std::int8_t(chosen[j * K + std::size_t(k)][lane]);
                }
            }
        }
    }
    return total;
}
