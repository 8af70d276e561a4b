#include "src/cli/system_limits.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <set>
#include <sstream>
#include <vector>

#include "src/base/bytes.h"

namespace frugal {
namespace {

// Empty when it cannot be read: every file here may be absent.
std::string ReadSmallFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  return text.str();
}

std::optional<uint64_t> ParseNumber(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return value;
}

void TakeSmaller(const std::string& path, std::optional<uint64_t>& limit) {
  const std::optional<uint64_t> value = ParseNumber(ReadSmallFile(path));  // "max" is no number
  // v1 says "no limit" as the largest multiple of a page below 2^63.
  if (value && *value < (uint64_t{1} << 62)) limit = std::min(limit.value_or(*value), *value);
}

// Inside a container the path of /proc/self/cgroup may be the host's: levels that do not exist are passed
// over, and the root, which then is the container's own group, is always looked at.
void WalkUp(const std::string& base, std::string path, const char* file, std::optional<uint64_t>& limit) {
  while (!path.empty() && path != "/") {
    TakeSmaller(base + path + "/" + file, limit);
    path.resize(path.rfind('/'));
  }
  TakeSmaller(base + "/" + file, limit);
}

}  // namespace

std::optional<uint64_t> FindKilobytes(std::string_view text, std::string_view name) {
  size_t at = 0;
  while (at < text.size()) {
    std::string_view line = text.substr(at, text.find('\n', at) - at);
    at += line.size() + 1;
    if (!line.starts_with(name) || line.size() <= name.size() || line[name.size()] != ':') continue;
    line.remove_prefix(name.size() + 1);
    const size_t digits = line.find_first_not_of(" \t");
    const std::optional<uint64_t> value =
        digits == std::string_view::npos ? std::nullopt : ParseNumber(line.substr(digits));
    return value ? CheckedMultiply(*value, kKiB) : std::nullopt;
  }
  return std::nullopt;
}

std::optional<uint64_t> CgroupMemoryLimit(const SystemRoots& roots) {
  std::optional<uint64_t> limit;
  std::istringstream groups(ReadSmallFile(roots.proc + "/self/cgroup"));
  std::string line;
  while (std::getline(groups, line)) {  // "4:memory:/path" (v1) or "0::/path" (v2)
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos || second + 1 >= line.size() || line[second + 1] != '/') continue;
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") WalkUp(roots.cgroup, path, "memory.max", limit);
    if (controllers.find(",memory,") != std::string::npos) {
      WalkUp(roots.cgroup + "/memory", path, "memory.limit_in_bytes", limit);
    }
  }
  return limit;
}

std::optional<uint64_t> AvailableMemory(const SystemRoots& roots) {
  return FindKilobytes(ReadSmallFile(roots.proc + "/meminfo"), "MemAvailable");
}

DefaultRam FindDefaultRam(const SystemRoots& roots) {
  const std::optional<uint64_t> available = AvailableMemory(roots);
  DefaultRam ram{kGiB, "the default where the available memory is unknown"};
  if (available) ram = {*available / 5 * 4, "80% of the available memory"};
  const std::optional<uint64_t> limit = CgroupMemoryLimit(roots);
  if (limit && (!available || *limit < ram.size_bytes)) ram = {*limit, "the limit of the cgroup"};
  return ram;
}

int UsableCores(const SystemRoots& roots) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string own = std::to_string(cpu);
    // The list of a core's hardware threads names the core.
    const std::string siblings = ReadSmallFile(roots.cpu + "/cpu" + own + "/topology/thread_siblings_list");
    cores.insert(siblings.empty() ? own : siblings);
  }
  return std::max(1, static_cast<int>(cores.size()));
}

bool MayBeSwapped(uint64_t size_bytes, const SystemRoots& roots) {
  if (FindKilobytes(ReadSmallFile(roots.proc + "/meminfo"), "SwapTotal").value_or(0) == 0) return false;
  rlimit lockable;
  return getrlimit(RLIMIT_MEMLOCK, &lockable) == 0 && lockable.rlim_cur != RLIM_INFINITY &&
         lockable.rlim_cur < size_bytes;
}

}  // namespace frugal
