// What ties and dare do with task vectors, on float32; the formulas are in README.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace weightsmith::task_vectors {

// Adds to 65536 bins: the upper 16 bits of |x|, or the lower 16 of those with the upper bits `upper`.
void count(std::int64_t* bins, const float* vector, std::size_t n, std::int32_t upper);

// Keeps |x| whose bits are above the threshold, and the first `equal` that equal it; returns how many
// of those there were.
std::size_t trim(float* vector, std::size_t n, std::uint32_t threshold, std::size_t equal);

struct Mix {
    const float* vectors;  // [count, n]
    const float* weights;  // [count]
    std::size_t count;
    bool elect, normalize;
};
// Returns how many sums are not finite.
std::size_t combine(float* out, std::size_t n, Mix mix);

// As in elementwise/cpu.hpp.
std::vector<std::string> isas();
void use_isa(const std::string& name);

}  // namespace weightsmith::task_vectors
