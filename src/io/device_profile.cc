#include "src/io/device_profile.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <map>
#include <system_error>

#include "src/base/unique_fd.h"

namespace frugal {
namespace {

// One line of a sysfs attribute, in printable characters without blanks at its ends; empty when it is not
// there.
std::string ReadAttribute(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return "";
  char bytes[256];
  const ssize_t got = read(fd.get(), bytes, sizeof(bytes));
  std::string text;
  for (ssize_t i = 0; i < got && bytes[i] != '\n' && bytes[i] != '\0'; ++i) {
    text += bytes[i] > ' ' && bytes[i] < 127 ? bytes[i] : ' ';
  }
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text.substr(std::min(text.size(), text.find_first_not_of(' ')));
}

// A partition's directory lies inside its disk's, which has the attributes.
std::string FirstAttribute(const std::string& device, std::initializer_list<const char*> names) {
  for (const char* where : {"/", "/../"}) {
    for (const char* name : names) {
      std::string text = ReadAttribute(device + where + name);
      if (!text.empty()) return text;
    }
  }
  return "";
}

std::string KernelName(const std::string& device) {
  char target[4096];
  const ssize_t length = readlink(device.c_str(), target, sizeof(target));
  if (length <= 0) return "";
  const std::string path(target, static_cast<size_t>(length));
  return path.substr(path.rfind('/') + 1);
}

std::string FileSystemId(const std::string& path) {
  struct statfs info {};
  if (statfs(path.c_str(), &info) != 0) return "";
  uint32_t words[2];
  static_assert(sizeof(info.f_fsid) == sizeof(words));
  std::memcpy(words, &info.f_fsid, sizeof(words));
  return words[0] == 0 && words[1] == 0 ? "" : fmt::format("{:08x}{:08x}", words[0], words[1]);
}

// The fewest seconds per read of each measured size.
std::map<uint32_t, double> BestSecondsPerRead(const DeviceProfile& profile) {
  std::map<uint32_t, double> best;
  for (const DeviceProfile::Point& point : profile.random) {
    if (!(point.iops > 0) || point.read_bytes == 0) continue;
    const auto [entry, is_new] = best.try_emplace(point.read_bytes, 1 / point.iops);
    if (!is_new) entry->second = std::min(entry->second, 1 / point.iops);
  }
  return best;
}

double BestBytesPerSecond(const DeviceProfile& profile) {
  double best = profile.sequential_bytes_per_second;
  for (const DeviceProfile::Point& point : profile.random) best = std::max(best, point.bytes_per_second);
  return best;
}

double SecondsPerRead(const std::map<uint32_t, double>& best, uint64_t bytes_per_read) {
  const double bytes = static_cast<double>(bytes_per_read);
  const auto above =
      std::find_if(best.begin(), best.end(), [&](const auto& p) { return p.first >= bytes_per_read; });
  if (above == best.begin()) return above->second;
  const auto below = std::prev(above);
  // Beyond the largest size its bandwidth holds.
  if (above == best.end()) return below->second * bytes / below->first;
  const double share =
      std::log(bytes / below->first) / std::log(static_cast<double>(above->first) / below->first);
  return std::exp(std::log(below->second) * (1 - share) + std::log(above->second) * share);
}

}  // namespace

double ExpectedReadSeconds(const DeviceProfile& profile, uint64_t num_reads, uint64_t bytes_per_read) {
  if (num_reads == 0 || bytes_per_read == 0) return 0;
  const double bandwidth = BestBytesPerSecond(profile);
  if (!(bandwidth > 0)) return std::numeric_limits<double>::infinity();
  const double count = static_cast<double>(num_reads);
  const double by_bandwidth = count * static_cast<double>(bytes_per_read) / bandwidth;
  const std::map<uint32_t, double> best = BestSecondsPerRead(profile);
  return best.empty() ? by_bandwidth : std::max(by_bandwidth, count * SecondsPerRead(best, bytes_per_read));
}

DeviceProfile ProfileAtSpeed(const DeviceProfile& profile, double factor) {
  DeviceProfile result = profile;
  result.sequential_bytes_per_second *= factor;
  for (DeviceProfile::Point& point : result.random) {
    if (point.queue_depth == 1) continue;
    point.iops *= factor;
    point.bytes_per_second *= factor;
  }
  return result;
}

uint64_t GapWorthReading(const DeviceProfile& profile) {
  double iops = 0;
  for (const DeviceProfile::Point& point : profile.random) iops = std::max(iops, point.iops);
  return iops > 0 ? static_cast<uint64_t>(0.5 * BestBytesPerSecond(profile) / iops) : 0;
}

Result<DeviceIdentity> IdentifyDevice(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) {
    return MakeError(ErrorCode::kIo, "{}: {}", path, std::generic_category().message(errno));
  }
  const std::string number = fmt::format("{}:{}", major(info.st_dev), minor(info.st_dev));
  const std::string device = "/sys/dev/block/" + number;
  const std::string model = FirstAttribute(device, {"device/model", "device/name"});
  const std::string serial = FirstAttribute(device, {"serial", "device/serial", "wwid", "device/wwid"});
  const std::string file_system = FileSystemId(path);
  DeviceIdentity identity;
  identity.id = number;
  if (!model.empty()) identity.id += " model=" + model;
  if (!serial.empty()) identity.id += " serial=" + serial;
  if (!file_system.empty()) identity.id += " fs=" + file_system;
  identity.name = !model.empty() ? model : KernelName(device);
  if (identity.name.empty()) identity.name = "device " + number;
  return identity;
}

Result<std::string> DeviceIdOf(const std::string& path) {
  FRUGAL_ASSIGN(DeviceIdentity identity, IdentifyDevice(path));
  return identity.id;
}

}  // namespace frugal
