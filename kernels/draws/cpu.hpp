// Draws that depend on a key and a position, and on nothing drawn before; the formulas are in README.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace weightsmith::draws {

// Where the draws of an array of rows lie in the sequence of their key.
struct Position {
    std::uint64_t key, first_row;
    std::size_t rows, columns;
};

// 32 random bits for each element.
void bits(std::uint32_t* out, Position at);
// A standard normal deviate for each element.
void normals(float* out, Position at);

// As in elementwise/cpu.hpp.
std::vector<std::string> isas();
void use_isa(const std::string& name);

}  // namespace weightsmith::draws
