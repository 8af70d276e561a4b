// CHECK and DCHECK: mistakes of the programmer stop the program at once. Nothing that comes from a file, the network
// or a flag may reach one unvalidated.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace frugal {
[[noreturn]] inline void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, condition);
  std::abort();
}
}  // namespace frugal

#define CHECK(condition) \
  (static_cast<bool>(condition) ? static_cast<void>(0) : ::frugal::CheckFailed(__FILE__, __LINE__, #condition))
#ifdef NDEBUG
#define DCHECK(condition) static_cast<void>(0)
#else
#define DCHECK(condition) CHECK(condition)
#endif
