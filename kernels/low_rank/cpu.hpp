// The product of two thin matrices; the formula is in README.md.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace weightsmith::low_rank {

// Row-major: left [rows, rank], right [rank, columns].
struct Factors {
    const float* left;
    const float* right;
    std::size_t rows, rank, columns;
};

// out [rows, columns] = scale * (left right).
void product(float* out, Factors factors, float scale);

// As in elementwise/cpu.hpp.
std::vector<std::string> isas();
void use_isa(const std::string& name);

}  // namespace weightsmith::low_rank
