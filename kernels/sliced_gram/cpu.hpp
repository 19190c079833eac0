// Gram products in slices of 8 bits on the matrix unit of x86-64 CPUs; README.md has the arithmetic.
#pragma once

#include <cstddef>

namespace weightsmith::sliced_gram {

// Vectors whose inner products are wanted: rows of a row-major array if `by_rows`, else columns.
struct Block {
    const float* data;
    std::size_t vectors, length;
    bool by_rows;
};

// Whether this CPU, its system and this process can.
bool available();

// Adds the upper triangle of the inner products to gram [vectors, vectors]; below it lies anything.
// Returns the greatest share of a piece's squared norm that the slices cut off; NaN where an
// element is not finite.
double add(double* gram, Block block, unsigned threads);

}  // namespace weightsmith::sliced_gram
