// Threads for the decode, and how many there should be.
#pragma once

#include <cstddef>
#include <functional>

namespace scclip {

/// The physical cores this process may use (its CPU affinity), or a container's quota if that is less.
int DefaultThreads();

/// The number asked for, else the CPUs this process may use.
int WorkerThreads(int threads);

/// Call `function(i)` for 0 ≤ i < count on up to `threads` threads; the first exception comes back.
void Parallel(std::size_t count, int threads, const std::function<void(std::size_t)>& function);

}  // namespace scclip
