// Elementwise arithmetic on bf16, fp16 and fp32 buffers; the formulas are in README.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace weightsmith::elementwise {

enum class DType { bf16, f16, f32 };

// Throws std::invalid_argument for anything but "BF16", "F16", "F32".
DType parse_dtype(const std::string& name);
std::size_t width(DType dtype);

// A run of elements that need not be aligned to their size.
struct Input {
    const unsigned char* data;
    DType dtype;
};
struct Output {
    unsigned char* data;
    DType dtype;
};

enum class Formula { cast, difference, axpy, graft, lerp };

// Computes n elements and returns how many finite results overflowed `out`'s dtype.
std::size_t compute(Formula formula, Output out, std::size_t n, const Input* inputs,
                    const float* coefficients);

// Sums of squares of two inputs of n elements, and of their products.
struct Products {
    double aa, ab, bb;
};
Products products(std::size_t n, Input a, Input b);

void exclusive_or(unsigned char* out, const unsigned char* a, const unsigned char* b,
                  std::size_t nbytes);

struct Nonfinite {
    std::size_t nan;
    std::size_t infinite;
};
// A dtype's patterns without the sign: NaN lies above `last_number`, and `infinity` is infinite
// (out of reach where the dtype has none).
struct Specials {
    std::size_t width;
    std::uint64_t last_number, infinity;
};
// Counting takes F64 and the OCP 8-bit floats besides the dtypes of arithmetic.
Specials parse_specials(const std::string& name);
Nonfinite count_nonfinite(const unsigned char* data, std::size_t n, Specials specials);

// Names of the instruction sets that this CPU can run, best last; the best is used.
std::vector<std::string> isas();
// Throws std::invalid_argument where the CPU cannot run it. For tests.
void use_isa(const std::string& name);

}  // namespace weightsmith::elementwise
