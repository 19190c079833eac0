// What callers see: activations become integers, rows are shared out among threads.

#include "cpu.hpp"

#include <cstring>
#include <stdexcept>

#include "paths.hpp"
#include "../threads.hpp"

namespace weightsmith::ternary {
namespace {

constexpr std::size_t rows_span = 128;           // inputs of 8-bit rows that share an activation scale
constexpr std::size_t worth_threads = 64 << 10;  // bytes of weights, times tokens

// Scratch stays with the thread that calls: a model's layers want it again and again.
Quantized& quantized(const float* x, std::size_t tokens, std::size_t inputs, std::size_t span,
                     int parts) {
    thread_local Quantized q;
    q.tokens = tokens;
    q.span = span;
    q.spans = ceil_div(inputs, span);
    q.strips = ceil_div(inputs, strip_inputs);
    q.parts = parts;
    for (int p = 0; p < parts; ++p) q.values[p].resize(tokens * q.strips * strip_inputs);
    q.scales.resize(tokens * q.spans);
    q.offsets.resize(tokens * q.spans * 8);
    for (std::size_t token = 0; token < tokens; ++token)
        current().quantize(x + token * inputs, inputs, q, token);
    return q;
}

// Rows of x, each filled with zeros to whole strips; `turned`, a strip has its inputs 0, 4, 8, ..,
// then 1, 5, 9, .. and so on.
const float* padded(const float* x, std::size_t tokens, std::size_t inputs, bool turned) {
    thread_local std::vector<float> room;
    const std::size_t width = ceil_div(inputs, strip_inputs) * strip_inputs;
    room.assign(tokens * width, 0.0f);
    for (std::size_t token = 0; token < tokens; ++token) {
        float* const row = room.data() + token * width;
        const float* const given = x + token * inputs;
        for (std::size_t i = 0; i < inputs; ++i) {
            const std::size_t within = i % strip_inputs;
            row[turned ? i - within + within % 4 * 8 + within / 4 : i] = given[i];
        }
    }
    return room.data();
}

unsigned useful(unsigned threads, std::size_t nbytes, std::size_t tokens) {
    return nbytes * tokens < worth_threads ? 1 : threads;
}

}  // namespace

Activation parse_activation(const std::string& name) {
    if (name == "int8") return Activation::int8;
    if (name == "int16") return Activation::int16;
    if (name == "float32") return Activation::float32;
    throw std::invalid_argument("activations are int8, int16 or float32, not " + name);
}

void linear(const Planes& w, const float* x, std::size_t tokens, Activation act, float* y,
            unsigned threads) {
    const Path& path = current();
    threads = useful(threads, w.blocks() * w.strips() * 64 * w.planes, tokens);
    if (act == Activation::float32) {
        const float* const given = padded(x, tokens, w.inputs, true);
        parallel(w.blocks(), threads, [&](std::size_t first, std::size_t last) {
            path.planes_floats(w, first, last, given, tokens, y);
        });
        return;
    }
    const int parts = act == Activation::int16 ? 2 : 1;
    const Quantized& q = quantized(x, tokens, w.inputs, w.span, parts);
    parallel(w.blocks(), threads, [&](std::size_t first, std::size_t last) {
        path.planes[parts - 1](w, first, last, q, y);
    });
}

void linear(const Rows& w, const float* x, std::size_t tokens, Activation act, float* y,
            unsigned threads) {
    const Path& path = current();
    threads = useful(threads, w.rows * w.inputs, tokens);
    if (act == Activation::float32) {
        const float* const given = padded(x, tokens, w.inputs, false);
        parallel(w.rows, threads, [&](std::size_t first, std::size_t last) {
            path.rows_floats(w, first, last, given, tokens, y);
        });
        return;
    }
    const int parts = act == Activation::int16 ? 2 : 1;
    const Quantized& q = quantized(x, tokens, w.inputs, rows_span, parts);
    parallel(w.rows, threads, [&](std::size_t first, std::size_t last) {
        path.rows[parts - 1](w, first, last, q, y);
    });
}

void dequantize(const Planes& w, std::size_t first, std::size_t count, float* out,
                unsigned threads) {
    const Path& path = current();
    parallel(ceil_div(count, block_rows), threads, [&](std::size_t from, std::size_t to) {
        for (std::size_t b = from; b < to; ++b) {
            const std::size_t left = count - b * block_rows;
            path.values(w, first / block_rows + b, left < block_rows ? left : block_rows,
                        out + b * block_rows * w.inputs);
        }
    });
}

std::uint64_t touch(const std::uint8_t* data, std::size_t nbytes) {
    std::uint64_t sums[16] = {};
    for (std::size_t i = 0; i + 128 <= nbytes; i += 128) {
        // As the kernels do: the hardware's own prefetcher stops at every page.
        __builtin_prefetch(data + i + 2048);
        __builtin_prefetch(data + i + 2112);
        std::uint64_t line[16];
        std::memcpy(line, data + i, 128);
        for (int l = 0; l < 16; ++l) sums[l] ^= line[l];
    }
    std::uint64_t sum = 0;
    for (const std::uint64_t each : sums) sum ^= each;
    return sum;
}

}  // namespace weightsmith::ternary
