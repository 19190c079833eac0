// Products with trit planes and with 8-bit rows; README.md has the layouts and the arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace weightsmith::ternary {

constexpr std::size_t strip_inputs = 32;  // inputs that one vector of codes covers
constexpr std::size_t block_rows = 8;     // rows whose codes lie together

constexpr std::size_t ceil_div(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

// Trit planes in the kernel layout.
struct Planes {
    const std::uint8_t* codes;  // [blocks, strips, planes, 64]
    const void* scales;         // [blocks, spans, planes, 8]
    bool wide;                  // whether scales are float32; else float16
    std::size_t rows, inputs;
    std::size_t span;  // inputs that share scales: 32, 64 or 128
    int planes;        // 1, 2 or 3

    std::size_t blocks() const { return ceil_div(rows, block_rows); }
    std::size_t strips() const { return ceil_div(inputs, strip_inputs); }
    std::size_t spans() const { return ceil_div(inputs, span); }
};

// Rows of 8-bit integers with a scale each.
struct Rows {
    const std::int8_t* values;    // [rows, inputs]
    const std::uint16_t* scales;  // float16 bits, [rows]
    std::size_t rows, inputs;
};

// int8: activations as 8-bit integers, int16: as two of them; float32: as they are.
enum class Activation { int8, int16, float32 };

// Throws std::invalid_argument for any other name.
Activation parse_activation(const std::string& name);

// y[tokens, rows] = x[tokens, inputs] w^T on so many threads; the result does not depend on them.
void linear(const Planes& w, const float* x, std::size_t tokens, Activation act, float* y,
            unsigned threads);
void linear(const Rows& w, const float* x, std::size_t tokens, Activation act, float* y,
            unsigned threads);

// Rows [first, first + count) as float32, [count, inputs]; `first` is a multiple of 8.
void dequantize(const Planes& w, std::size_t first, std::size_t count, float* out,
                unsigned threads);

// Trits -1, 0, 1 of whole blocks' rows, [rows, planes, inputs], into codes, and back.
void arrange(const Planes& shape, const std::int8_t* trits, std::uint8_t* codes);
void restore(const Planes& w, std::int8_t* trits);

// Reads a buffer as fast as one thread can: what benchmarks hold the kernels against.
std::uint64_t touch(const std::uint8_t* data, std::size_t nbytes);

// Names of the code paths that this CPU can run, best last; the best is used.
std::vector<std::string> paths();
// Throws std::invalid_argument where the CPU cannot run it. For tests and benchmarks.
void use_path(const std::string& name);

}  // namespace weightsmith::ternary
