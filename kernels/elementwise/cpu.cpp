// One body for all instruction sets: plain loops that the compiler vectorises once for each target
// below. No intrinsics, no alignment, no branches on values. Compiled with -ffp-contract=off, so
// every operation rounds as it is written.

#include "cpu.hpp"

#include <cstring>
#include <stdexcept>

#include "../choice.hpp"
#include "../dtypes.hpp"

namespace weightsmith::elementwise {
namespace {

constexpr std::size_t run = 64;      // elements computed between two prefetches
constexpr std::size_t ahead = 3072;  // bytes that a prefetch is ahead
constexpr std::size_t chunk = 2048;  // elements; scratch of this length stays in the first-level cache

constexpr int arity(Formula formula) {
    return formula == Formula::cast ? 1 : formula == Formula::graft ? 3 : 2;
}

template <Formula formula>
WS_INLINE float apply(float a, float b, float c, float p, float q) {
    if constexpr (formula == Formula::cast) return a;
    if constexpr (formula == Formula::difference) return a - b;
    if constexpr (formula == Formula::axpy) return a + p * b;
    if constexpr (formula == Formula::graft) return a + p * (b - c);
    if constexpr (formula == Formula::lerp) return p * a + q * b;
}

// Elements [first, first + n) of inputs of one dtype: everything stays in registers.
template <Formula formula, typename In, typename Out>
WS_INLINE std::uint32_t span(typename Out::Stored* results, const Input* inputs, std::size_t first,
                             std::size_t n, const float* coefficients) {
    using Stored = typename In::Stored;
    const unsigned char* x0 = inputs[0].data;
    const unsigned char* x1 = arity(formula) > 1 ? inputs[1].data : x0;
    const unsigned char* x2 = arity(formula) > 2 ? inputs[2].data : x0;
    const float p = coefficients[0], q = coefficients[1];
    std::uint32_t overflows = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const float a = In::widen(load<Stored>(x0, first + i));
        const float b = arity(formula) > 1 ? In::widen(load<Stored>(x1, first + i)) : 0.0f;
        const float c = arity(formula) > 2 ? In::widen(load<Stored>(x2, first + i)) : 0.0f;
        const float y = apply<formula>(a, b, c, p, q);
        const std::uint32_t magnitude = bits_of(y) & 0x7fffffff;
        overflows += (magnitude >= Out::halfway) & (magnitude < 0x7f800000);
        results[i] = Out::narrow(y);
    }
    return overflows;
}

template <Formula formula, typename In, typename Out>
WS_INLINE std::size_t uniform(unsigned char* out, std::size_t n, const Input* inputs,
                              const float* coefficients) {
    using Result = typename Out::Stored;
    constexpr std::size_t width = sizeof(typename In::Stored);
    std::size_t overflows = 0;
    for (std::size_t first = 0; first < n; first += chunk) {
        const std::size_t count = n - first < chunk ? n - first : chunk;
        alignas(64) Result results[chunk];
        std::uint32_t over = 0;
        std::size_t done = 0;
        for (; done + run <= count; done += run) {
            // Inputs often come straight from the page cache. The hardware prefetcher stops at every
            // page, so we ask for the next one ourselves.
            for (int k = 0; k < arity(formula); ++k)
                for (std::size_t line = 0; line < run * width; line += 64)
                    __builtin_prefetch(inputs[k].data + (first + done) * width + line + ahead);
            over += span<formula, In, Out>(results + done, inputs, first + done, run, coefficients);
        }
        over += span<formula, In, Out>(results + done, inputs, first + done, count - done, coefficients);
        std::memcpy(out + first * sizeof(Result), results, count * sizeof(Result));
        overflows += over;
    }
    return overflows;
}

template <typename Dtype>
WS_INLINE void widen_run(float* out, const unsigned char* data, std::size_t first, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i)
        out[i] = Dtype::widen(load<typename Dtype::Stored>(data, first + i));
}

// Inputs of several dtypes: each chunk is widened to float32 first.
template <Formula formula, typename Out>
WS_INLINE std::size_t mixed(unsigned char* out, std::size_t n, const Input* inputs,
                            const float* coefficients) {
    alignas(64) float wide[arity(formula)][chunk];
    std::size_t overflows = 0;
    for (std::size_t first = 0; first < n; first += chunk) {
        const std::size_t count = n - first < chunk ? n - first : chunk;
        Input rows[arity(formula)];
        for (int k = 0; k < arity(formula); ++k) {
            switch (inputs[k].dtype) {
                case DType::bf16: widen_run<Bf16>(wide[k], inputs[k].data, first, count); break;
                case DType::f16: widen_run<F16>(wide[k], inputs[k].data, first, count); break;
                case DType::f32: widen_run<F32>(wide[k], inputs[k].data, first, count); break;
            }
            rows[k] = {reinterpret_cast<const unsigned char*>(wide[k]), DType::f32};
        }
        overflows += uniform<formula, F32, Out>(out + first * sizeof(typename Out::Stored), count,
                                                rows, coefficients);
    }
    return overflows;
}

template <Formula formula, typename Out>
WS_INLINE std::size_t compute_into(unsigned char* out, std::size_t n, const Input* inputs,
                                   const float* coefficients) {
    for (int k = 1; k < arity(formula); ++k)
        if (inputs[k].dtype != inputs[0].dtype)
            return mixed<formula, Out>(out, n, inputs, coefficients);
    switch (inputs[0].dtype) {
        case DType::bf16: return uniform<formula, Bf16, Out>(out, n, inputs, coefficients);
        case DType::f16: return uniform<formula, F16, Out>(out, n, inputs, coefficients);
        case DType::f32: return uniform<formula, F32, Out>(out, n, inputs, coefficients);
    }
    return 0;
}

template <Formula formula>
WS_INLINE std::size_t compute_all(Output out, std::size_t n, const Input* inputs,
                                  const float* coefficients) {
    switch (out.dtype) {
        case DType::bf16: return compute_into<formula, Bf16>(out.data, n, inputs, coefficients);
        case DType::f16: return compute_into<formula, F16>(out.data, n, inputs, coefficients);
        case DType::f32: return compute_into<formula, F32>(out.data, n, inputs, coefficients);
    }
    return 0;
}

WS_INLINE std::size_t dispatch(Formula formula, Output out, std::size_t n, const Input* inputs,
                               const float* coefficients) {
    switch (formula) {
        case Formula::cast: return compute_all<Formula::cast>(out, n, inputs, coefficients);
        case Formula::difference: return compute_all<Formula::difference>(out, n, inputs, coefficients);
        case Formula::axpy: return compute_all<Formula::axpy>(out, n, inputs, coefficients);
        case Formula::graft: return compute_all<Formula::graft>(out, n, inputs, coefficients);
        case Formula::lerp: return compute_all<Formula::lerp>(out, n, inputs, coefficients);
    }
    return 0;
}

#include "sums.inl"

template <typename Stored>
WS_INLINE Nonfinite count_in(const unsigned char* data, std::size_t n, Specials specials) {
    constexpr Stored unsigned_part = Stored(~Stored(0)) >> 1;
    const Stored last_number = Stored(specials.last_number), infinity = Stored(specials.infinity);
    Nonfinite total{0, 0};
    for (std::size_t first = 0; first < n; first += chunk) {
        const std::size_t last = n - first < chunk ? n : first + chunk;
        std::uint32_t nan = 0, infinite = 0;
        for (std::size_t i = first; i < last; ++i) {
            const Stored magnitude = load<Stored>(data, i) & unsigned_part;
            nan += magnitude > last_number;
            infinite += magnitude == infinity;
        }
        total.nan += nan;
        total.infinite += infinite;
    }
    return total;
}

WS_INLINE Nonfinite count_all(const unsigned char* data, std::size_t n, Specials specials) {
    switch (specials.width) {
        case 1: return count_in<std::uint8_t>(data, n, specials);
        case 2: return count_in<std::uint16_t>(data, n, specials);
        case 4: return count_in<std::uint32_t>(data, n, specials);
        default: return count_in<std::uint64_t>(data, n, specials);
    }
}

struct Isa {
    const char* name;
    std::size_t (*compute)(Formula, Output, std::size_t, const Input*, const float*);
    Products (*products)(std::size_t, Input, Input);
    Nonfinite (*count)(const unsigned char*, std::size_t, Specials);
};

#define WS_TARGET(suffix, attribute)                                                              \
    attribute std::size_t compute_##suffix(Formula formula, Output out, std::size_t n,            \
                                           const Input* inputs, const float* coefficients) {      \
        return dispatch(formula, out, n, inputs, coefficients);                                   \
    }                                                                                             \
    attribute Products products_##suffix(std::size_t n, Input a, Input b) {                       \
        return all_products(n, a, b);                                                             \
    }                                                                                             \
    attribute Nonfinite count_##suffix(const unsigned char* data, std::size_t n,                  \
                                       Specials specials) {                                       \
        return count_all(data, n, specials);                                                      \
    }

WS_TARGET(baseline, )
#if defined(__x86_64__)
WS_TARGET(avx2, WS_WITH_AVX2)
WS_TARGET(avx512, WS_WITH_AVX512)
#endif

std::vector<Isa> available() {
    std::vector<Isa> found{{"baseline", compute_baseline, products_baseline, count_baseline}};
#if defined(__x86_64__)
    if (has_avx2()) found.push_back({"avx2", compute_avx2, products_avx2, count_avx2});
    if (has_avx512()) found.push_back({"avx512", compute_avx512, products_avx512, count_avx512});
#endif
    return found;
}

Choice<Isa>& choice() {
    static Choice<Isa> chosen{available()};
    return chosen;
}

}  // namespace

DType parse_dtype(const std::string& name) {
    if (name == "BF16") return DType::bf16;
    if (name == "F16") return DType::f16;
    if (name == "F32") return DType::f32;
    throw std::invalid_argument("no arithmetic on dtype " + name);
}

std::size_t width(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

std::size_t compute(Formula formula, Output out, std::size_t n, const Input* inputs,
                    const float* coefficients) {
    return choice().current().compute(formula, out, n, inputs, coefficients);
}

Products products(std::size_t n, Input a, Input b) { return choice().current().products(n, a, b); }

void exclusive_or(unsigned char* out, const unsigned char* a, const unsigned char* b,
                  std::size_t nbytes) {
    for (std::size_t i = 0; i < nbytes; ++i) out[i] = a[i] ^ b[i];
}

Specials parse_specials(const std::string& name) {
    if (name == "BF16") return {2, 0x7f80, 0x7f80};
    if (name == "F16") return {2, 0x7c00, 0x7c00};
    if (name == "F32") return {4, 0x7f800000, 0x7f800000};
    if (name == "F64") return {8, 0x7ff0000000000000, 0x7ff0000000000000};
    if (name == "F8_E5M2") return {1, 0x7c, 0x7c};
    if (name == "F8_E4M3") return {1, 0x7e, 0xff};
    throw std::invalid_argument("no NaN or infinity known of dtype " + name);
}

Nonfinite count_nonfinite(const unsigned char* data, std::size_t n, Specials specials) {
    return choice().current().count(data, n, specials);
}

std::vector<std::string> isas() { return choice().names(); }

void use_isa(const std::string& name) { choice().use(name); }

}  // namespace weightsmith::elementwise
