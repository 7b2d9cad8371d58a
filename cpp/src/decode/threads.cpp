#include "decode/threads.hpp"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
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

/// A number in a file of its own; 0 if there is none ("max" or -1: no limit).
double ReadNumber(std::ifstream file) {
    double number = 0;
    return file >> number ? std::max(number, 0.0) : 0;
}

/// Quota over period, in the folder of one control group; 0 for none.
double GroupCpus(const std::string& folder, bool second_version) {
    if (!second_version) {
        const double period = ReadNumber(std::ifstream(folder + "/cpu.cfs_period_us"));
        return period > 0 ? ReadNumber(std::ifstream(folder + "/cpu.cfs_quota_us")) / period : 0;
    }
    std::ifstream file(folder + "/cpu.max");
    double quota = 0, period = 0;
    return file >> quota >> period && period > 0 ? quota / period : 0;
}

}  // namespace

double CgroupCpus(const std::string& root) {
    std::ifstream groups(root + "/proc/self/cgroup");  // lines such as 0::/user.slice and 4:cpu,cpuacct:/docker/1234
    double least = 0;
    for (std::string line; std::getline(groups, line);) {
        const std::size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        const bool second_version = controllers == ",,";
        if (!second_version && controllers.find(",cpu,") == std::string::npos) continue;
        // A container sees its own group as the root, so that the path outside may not exist there.
        std::string path = line.substr(second + 1);
        const std::string mount = root + "/sys/fs/cgroup" + (second_version ? "" : "/cpu");
        for (bool last = false; !last; path = path.substr(0, path.rfind('/'))) {
            last = path.find('/') == std::string::npos || path == "/";
            const double cpus = GroupCpus(mount + (last ? "" : path), second_version);
            if (cpus > 0 && (least == 0 || cpus < least)) least = cpus;
        }
    }
    return least;
}

int DefaultThreads() {
    // Two hyper-threads share one set of multipliers: matrix products gain nothing from the second.
    std::set<std::string> cores;
    for (const int cpu : AllowedCpus()) cores.insert(PhysicalCore(cpu));
    return std::min(static_cast<int>(cores.size()), UsableCpus());
}

int UsableCpus() {
    static const double quota = CgroupCpus();
    const int allowed = static_cast<int>(AllowedCpus().size());
    return std::max(1, quota > 0 ? std::min(allowed, static_cast<int>(std::ceil(quota))) : allowed);
}

int WorkerThreads(int threads) { return threads > 0 ? threads : UsableCpus(); }

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
