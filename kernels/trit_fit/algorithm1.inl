// Algorithm 1 of arXiv 2509.16989 as it is written, in float64.

// The order in which Algorithm 1 tries the nine pairs; among equally near ones the first wins. The
// paper gives no order; ours is zero first, then that of plain nested loops. It decides how the planes
// part, and thereby the result.
constexpr int pairs[9][2] = {{0, 0},  {-1, -1}, {-1, 0}, {-1, 1}, {0, -1},
                             {0, 1}, {1, -1},  {1, 0},  {1, 1}};

// Eq. 6 with the ridge raised tenfold while the condition number is above a million (version 3).
inline void ridge_solve(double* scales, double a11, double a22, double a12, double b1, double b2) {
    double ridge = 1e-8;
    for (;;) {
        const double d1 = a11 + ridge, d2 = a22 + ridge, determinant = d1 * d2 - a12 * a12;
        const double condition = (d1 * d1 + d2 * d2 + 2.0 * a12 * a12) / std::fabs(determinant);
        if (condition <= 1e6 || ridge >= 1.0) {
            scales[0] = (d2 * b1 - a12 * b2) / determinant;
            scales[1] = (d1 * b2 - a12 * b1) / determinant;
            return;
        }
        ridge *= 10.0;
    }
}

inline double step_rows(double* scales, std::int8_t* trits, const float* weights, Shape shape) {
    Buffer<Floats> columns(shape.group), first_plane(shape.group), second_plane(shape.group);
    double farthest = 0.0;
    for (std::size_t first = 0; first < shape.rows; first += lanes) {
        const Strip strip = strip_of(weights, shape, first);
        for (std::size_t g = 0; g < shape.groups(); ++g) {
            const std::size_t start = g * shape.group;
            const std::size_t size = std::min(shape.group, shape.columns - start);
            load_columns(columns.data(), strip, start, size);
            for (int lane = 0; lane < lanes; ++lane) {
                const std::size_t row = first + std::size_t(std::min(lane, strip.used - 1));
                const std::int8_t* t1 = trits + trit_at(shape, row, 0, start);
                const std::int8_t* t2 = trits + trit_at(shape, row, 1, start);
                for (std::size_t j = 0; j < size; ++j) {
                    first_plane[j][lane] = float(t1[j]);
                    second_plane[j][lane] = float(t2[j]);
                }
            }
            Doubles a11{}, a22{}, a12{}, b1{}, b2{};
            for (std::size_t j = 0; j < size; ++j) {
                const Doubles w = wide(columns[j]), t1 = wide(first_plane[j]), t2 = wide(second_plane[j]);
                a11 += t1 * t1;
                a22 += t2 * t2;
                a12 += t1 * t2;
                b1 += t1 * w;
                b2 += t2 * w;
            }
            Doubles alpha1{}, alpha2{};
            for (int lane = 0; lane < lanes; ++lane) {
                const std::size_t row = first + std::size_t(std::min(lane, strip.used - 1));
                double* stored = scales + (row * shape.groups() + g) * 2;
                double fitted[2];
                ridge_solve(fitted, lane_of(a11, lane), lane_of(a22, lane), lane_of(a12, lane), lane_of(b1, lane), lane_of(b2, lane));
                put(alpha1, lane, fitted[0]);
                put(alpha2, lane, fitted[1]);
                if (lane < strip.used) {
                    const double m1 = fitted[0] - stored[0], m2 = fitted[1] - stored[1];
                    farthest = std::max(farthest, std::sqrt(m1 * m1 + m2 * m2));
                    stored[0] = fitted[0];
                    stored[1] = fitted[1];
                }
            }
            for (std::size_t j = 0; j < size; ++j) {
                const Doubles w = wide(columns[j]);
                Doubles least = all(HUGE_VAL), t1{}, t2{};
                for (const auto& pair : pairs) {
                    const Doubles off = w - (double(pair[0]) * alpha1 + double(pair[1]) * alpha2);
                    const Doubles distance = off * off;
                    const Longs nearer = distance < least;
                    least = select(nearer, distance, least);
                    t1 = select(nearer, all(pair[0]), t1);
                    t2 = select(nearer, all(pair[1]), t2);
                }
                first_plane[j] = narrow(t1);
                second_plane[j] = narrow(t2);
            }
            for (int lane = 0; lane < strip.used; ++lane) {
                std::int8_t* t1 = trits + trit_at(shape, first + std::size_t(lane), 0, start);
                std::int8_t* t2 = trits + trit_at(shape, first + std::size_t(lane), 1, start);
                for (std::size_t j = 0; j < size; ++j) {
                    t1[j] = std::int8_t(first_plane[j][lane]);
                    t2[j] = std::int8_t(second_plane[j][lane]);
                }
            }
        }
    }
    return farthest;
}
