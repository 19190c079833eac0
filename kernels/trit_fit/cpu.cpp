// The kernels, compiled once for each target: vector types of the compiler, no intrinsics, and never
// for the machine that builds. With -ffp-contract=off every target gives the same bits.

#include "cpu.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "../choice.hpp"
#include "../dtypes.hpp"

namespace weightsmith::trit_fit {
namespace {

#define WS_LANES 4
namespace baseline {
#include "body.inl"
}
#undef WS_LANES

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WS_X86_TARGETS
#pragma GCC push_options
#pragma GCC target("avx2")
#define WS_LANES 8
namespace avx2 {
#include "body.inl"
}
#undef WS_LANES
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#define WS_LANES 16
namespace avx512 {
#include "body.inl"
}
#undef WS_LANES
#pragma GCC pop_options
#endif

struct Isa {
    const char* name;
    decltype(&trit_fit::fit) fit;
    decltype(&trit_fit::assign) assign;
    decltype(&trit_fit::algorithm1_step) step;
    decltype(&trit_fit::feedback) feedback;
};

#define WS_ISA(name) \
    Isa { #name, name::fit, name::assign, name::algorithm1_step, name::feedback }

std::vector<Isa> available() {
    std::vector<Isa> found{WS_ISA(baseline)};
#if defined(WS_X86_TARGETS)
    if (has_avx2()) found.push_back(WS_ISA(avx2));
    if (has_avx512()) found.push_back(WS_ISA(avx512));
#endif
    return found;
}

Choice<Isa>& choice() {
    static Choice<Isa> chosen{available()};
    return chosen;
}

}  // namespace

Fitted fit(float* scales, std::uint8_t* ratio, const float* weights, const float* importance,
           Shape shape, Ratios ratios, int starts) {
    return choice().current().fit(scales, ratio, weights, importance, shape, ratios, starts);
}

Assigned assign(std::int8_t* trits, const float* weights, const float* scales, Shape shape) {
    return choice().current().assign(trits, weights, scales, shape);
}

double algorithm1_step(double* scales, std::int8_t* trits, const float* weights, Shape shape) {
    return choice().current().step(scales, trits, weights, shape);
}

void feedback(std::int8_t* trits, float* error, float* weights, const float* factor,
              const float* scales, const std::int32_t* group_of, Shape shape, std::size_t groups) {
    choice().current().feedback(trits, error, weights, factor, scales, group_of, shape, groups);
}

std::vector<std::string> isas() { return choice().names(); }

void use_isa(const std::string& name) { choice().use(name); }

}  // namespace weightsmith::trit_fit
