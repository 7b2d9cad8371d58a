#include "parallel.hpp"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace scclip {
namespace {

std::vector<int> AllowedCpus() {
    std::vector<int> cpus;
    cpu_set_t set;
    CPU_ZERO(&set);
    if (::sched_getaffinity(0, sizeof set, &set) == 0) {
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
            if (CPU_ISSET(static_cast<std::size_t>(cpu), &set)) cpus.push_back(cpu);
        }
    } else {  // more CPUs than the set can hold
        for (unsigned cpu = 0; cpu < std::max(1U, std::thread::hardware_concurrency()); ++cpu) {
            cpus.push_back(static_cast<int>(cpu));
        }
    }
    return cpus;
}

std::string PhysicalCore(int cpu) {
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    std::string siblings;
    return std::getline(file, siblings) ? siblings : std::to_string(cpu);
}

/// The CPU quota of a container (`docker run --cpus`), which the affinity does not show; cgroup v2. 0: none.
double CgroupCpus() {
    std::ifstream file("/sys/fs/cgroup/cpu.max");
    std::string quota;
    double period = 0;
    if (!(file >> quota >> period) || quota == "max" || period <= 0) return 0;
    return std::strtod(quota.c_str(), nullptr) / period;
}

}  // namespace

int DefaultThreads() {
    // Two hyper-threads share one set of multipliers: matrix products gain nothing from the second.
    std::set<std::string> cores;
    for (const int cpu : AllowedCpus()) cores.insert(PhysicalCore(cpu));
    const double quota = CgroupCpus();
    const int limit = quota > 0 ? static_cast<int>(std::ceil(quota)) : static_cast<int>(cores.size());
    return std::max(1, std::min(static_cast<int>(cores.size()), limit));
}

int WorkerThreads(int threads) { return threads > 0 ? threads : static_cast<int>(AllowedCpus().size()); }

void Parallel(std::size_t count, int threads, const std::function<void(std::size_t)>& function) {
    const std::size_t workers = std::min(count, static_cast<std::size_t>(std::max(threads, 1)));
    if (workers <= 1) {
        for (std::size_t i = 0; i < count; ++i) function(i);
        return;
    }
    std::atomic<std::size_t> next{0};
    std::mutex mutex;
    std::exception_ptr problem;
    const auto work = [&] {
        try {
            for (std::size_t i = next++; i < count; i = next++) function(i);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex);
            if (!problem) problem = std::current_exception();
            next = count;
        }
    };
    std::vector<std::thread> pool;
    try {
        for (std::size_t i = 1; i < workers; ++i) pool.emplace_back(work);
    } catch (const std::system_error&) {
        // No more threads to be had: those there are, and this one, do the work.
    }
    work();
    for (std::thread& thread : pool) thread.join();
    if (problem) std::rethrow_exception(problem);
}

}  // namespace scclip
