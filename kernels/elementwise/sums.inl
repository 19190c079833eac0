// Sums of products of two inputs; one body for all instruction sets, as in cpu.cpp.

constexpr std::size_t lanes = 16;  // of the sums, in float64

// Sums in lanes, element i in lane i % lanes: one order of additions for all instruction sets.
template <typename A, typename B>
WS_INLINE Products products_of(std::size_t n, const unsigned char* a, const unsigned char* b) {
    double aa[lanes] = {}, ab[lanes] = {}, bb[lanes] = {};
    const auto add = [&](std::size_t first, std::size_t count) __attribute__((always_inline)) {
        for (std::size_t l = 0; l < count; ++l) {
            const double x = A::widen(load<typename A::Stored>(a, first + l));
            const double y = B::widen(load<typename B::Stored>(b, first + l));
            aa[l] += x * x;
            ab[l] += x * y;
            bb[l] += y * y;
        }
    };
    std::size_t first = 0;
    for (; first + lanes <= n; first += lanes) add(first, lanes);
    add(first, n - first);
    Products sums{0, 0, 0};
    for (std::size_t l = 0; l < lanes; ++l) {
        sums.aa += aa[l];
        sums.ab += ab[l];
        sums.bb += bb[l];
    }
    return sums;
}

template <typename A>
WS_INLINE Products products_with(std::size_t n, const unsigned char* a, Input b) {
    switch (b.dtype) {
        case DType::bf16: return products_of<A, Bf16>(n, a, b.data);
        case DType::f16: return products_of<A, F16>(n, a, b.data);
        case DType::f32: return products_of<A, F32>(n, a, b.data);
    }
    return {};
}

WS_INLINE Products all_products(std::size_t n, Input a, Input b) {
    switch (a.dtype) {
        case DType::bf16: return products_with<Bf16>(n, a.data, b);
        case DType::f16: return products_with<F16>(n, a.data, b);
        case DType::f32: return products_with<F32>(n, a.data, b);
    }
    return {};
}
