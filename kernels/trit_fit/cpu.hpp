// Fit groups of weights by sums of scaled trit planes; the method is in README.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace weightsmith::trit_fit {

// A matrix of rows x columns, of which every row is cut into groups of `group` columns.
struct Shape {
    std::size_t rows, columns, group;
    int planes;
    std::size_t groups() const { return (columns + group - 1) / group; }
};

// Scales that are tied to each other: `count` rows of `planes` small integers, largest first. No
// rows leave the scales free.
struct Ratios {
    const float* table;
    std::size_t count;
};

struct Fitted {
    std::uint64_t iterations;  // summed over groups
    std::uint64_t overflows;   // groups whose scales are too large for float16
};

// scales [rows, groups, planes]: float32 that float16 holds; ratio [rows, groups]: row of the table.
// `importance` [columns] weighs the squared error of each column; `starts` is how many are tried.
Fitted fit(float* scales, std::uint8_t* ratio, const float* weights, const float* importance,
           Shape shape, Ratios ratios, int starts);

struct Assigned {
    double error, norm;  // sums of squares: of weights minus their approximation, of weights
    std::uint64_t zeros;
};

// trits [rows, planes, columns]: the nearest level of each weight.
Assigned assign(std::int8_t* trits, const float* weights, const float* scales, Shape shape);

// One iteration of Algorithm 1 of arXiv 2509.16989: scales [rows, groups, 2], then trits. Returns the
// largest Euclidean distance that the scales of a group moved.
double algorithm1_step(double* scales, std::int8_t* trits, const float* weights, Shape shape);

// Quantise columns one by one and move what is lost onto those still to come (GPTQ's order).
// weights [rows, columns] are changed; error [rows, columns] is (weight - level) / factor diagonal;
// factor [columns, columns] is upper triangular; group_of [columns] picks the scales.
void feedback(std::int8_t* trits, float* error, float* weights, const float* factor,
              const float* scales, const std::int32_t* group_of, Shape shape, std::size_t groups);

std::vector<std::string> isas();
void use_isa(const std::string& name);

}  // namespace weightsmith::trit_fit
