// Threads for the decode, and how many there should be.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

namespace scclip {

/// The CPUs that a container's quota leaves (`docker run --cpus`, control groups of version 1 and 2, the least of all
/// levels), which the affinity does not show; 0: no quota. `root` is for tests.
double CgroupCpus(const std::string& root = "");

/// The CPUs that this process may use: its affinity, or a quota if that is less. Every pool takes its size from here.
int UsableCpus();

/// As many physical cores as that.
int DefaultThreads();

/// The number asked for, else UsableCpus.
int WorkerThreads(int threads);

/// Call `function(i)` for 0 ≤ i < count on up to `threads` threads; the first exception comes back.
void Parallel(std::size_t count, int threads, const std::function<void(std::size_t)>& function);

}  // namespace scclip
