// The variants of a kernel that this CPU can run; the best one is used unless a test asks for another.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace weightsmith {

#if defined(__x86_64__)
inline bool has_avx2() { return __builtin_cpu_supports("avx2"); }
inline bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
// What the variants are compiled for: no more than the two functions ask the CPU for.
#define WS_WITH_AVX2 __attribute__((target("avx2")))
#define WS_WITH_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#endif

// A Variant has a `name`; they are given best last.
template <typename Variant>
class Choice {
  public:
    explicit Choice(std::vector<Variant> variants) : variants_(std::move(variants)) {}

    const Variant& current() const { return variants_[chosen_]; }

    std::vector<std::string> names() const {
        std::vector<std::string> found;
        for (const Variant& each : variants_) found.emplace_back(each.name);
        return found;
    }

    void use(const std::string& name) {
        for (std::size_t i = 0; i < variants_.size(); ++i)
            if (name == variants_[i].name) {
                chosen_ = i;
                return;
            }
        throw std::invalid_argument("this CPU cannot run " + name);
    }

  private:
    std::vector<Variant> variants_;
    std::size_t chosen_ = variants_.size() - 1;
};

}  // namespace weightsmith
