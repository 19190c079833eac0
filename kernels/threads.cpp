#include "threads.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace weightsmith {
namespace {

constexpr std::size_t pieces = 32;  // ranges for each thread: a slow one leaves its work to others
constexpr auto patience = std::chrono::microseconds(100);

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
}

struct Job {
    const std::function<void(std::size_t, std::size_t)>& body;
    const std::size_t count, size;
    std::atomic<std::size_t> next{0};

    void work() {
        for (std::size_t first; (first = next.fetch_add(size)) < count;)
            body(first, first + size < count ? first + size : count);
    }
};

class Pool {
public:
    bool run(Job& job, unsigned threads) {
        std::unique_lock<std::mutex> mine(caller_, std::try_to_lock);
        if (!mine) return false;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            while (workers_ + 1 < threads) {
                std::thread([this] { serve(); }).detach();
                ++workers_;
            }
            job_ = &job;
            room_ = threads - 1;
            generation_.fetch_add(1);
        }
        wake_.notify_all();
        job.work();
        std::unique_lock<std::mutex> lock(mutex_);
        job_ = nullptr;  // a worker that wakes up now finds nothing, and nobody waits for it
        while (active_ > 0) {
            lock.unlock();
            relax();
            lock.lock();
        }
        return true;
    }

private:
    void serve() {
        std::uint64_t seen = 0;
        for (;;) {
            const auto until = std::chrono::steady_clock::now() + patience;
            while (generation_.load() == seen && std::chrono::steady_clock::now() < until) relax();
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [&] { return generation_.load() != seen; });
            seen = generation_.load();
            if (job_ == nullptr || room_ == 0) continue;
            Job* const job = job_;
            --room_;
            ++active_;
            lock.unlock();
            job->work();
            lock.lock();
            --active_;
        }
    }

    std::mutex caller_, mutex_;
    std::condition_variable wake_;
    std::atomic<std::uint64_t> generation_{0};
    Job* job_ = nullptr;
    unsigned room_ = 0, active_ = 0, workers_ = 0;
};

// Never destroyed: its threads may outlive every static. A forked child has no threads, and gets
// another pool.
Pool& pool() {
    static std::mutex mutex;
    static Pool* current = nullptr;
    static long owner = 0;
#if defined(__unix__) || defined(__APPLE__)
    const long self = getpid();
#else
    const long self = 0;
#endif
    std::lock_guard<std::mutex> lock(mutex);
    if (current == nullptr || owner != self) {
        current = new Pool;
        owner = self;
    }
    return *current;
}

}  // namespace

void parallel(std::size_t count, unsigned threads,
              const std::function<void(std::size_t, std::size_t)>& body) {
    if (threads > count) threads = unsigned(count);
    if (threads > 1) {
        const std::size_t size = count / (threads * pieces);
        Job job{body, count, size ? size : 1};
        if (pool().run(job, threads)) return;
    }
    if (count > 0) body(0, count);
}

}  // namespace weightsmith
