// A pool of threads for loops of some hundred microseconds: workers spin for a moment before they
// sleep, because the next layer's loop follows soon.
#pragma once

#include <cstddef>
#include <functional>

namespace weightsmith {

// Calls body(first, last) on ranges that cover [0, count), on so many threads at most. Where the pool
// is busy with another caller's loop, the whole of it runs here.
void parallel(std::size_t count, unsigned threads,
              const std::function<void(std::size_t, std::size_t)>& body);

}  // namespace weightsmith
