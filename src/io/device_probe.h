// Measures the flash: sequential bandwidth, and random reads by size and queue depth, through the same
// readers and the same kind of file (direct where possible) that the engine uses. Offline work: it takes
// seconds, and it writes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "src/base/function_ref.h"
#include "src/base/result.h"
#include "src/io/device_profile.h"
#include "src/io/extent_reader.h"

namespace frugal {

enum class ProbeEffort {
  kQuick,  // at most about 10 s: a file of 1 GiB, fewer sizes and depths
  kFull,   // about 60 s: a file of 4 GiB
};

struct ProbeOptions {
  // A model file, or a folder. A file of at least own_file_bytes is read itself, and its bytes are not
  // verified, since nobody knows them; otherwise a temporary file is written beside it. That file has no name
  // (or loses it at once), so nothing is left behind even by a kill.
  std::string path;
  ProbeEffort effort = ProbeEffort::kQuick;
  IoBackend backend = IoBackend::kAuto;
  uint64_t own_file_bytes = uint64_t{4} << 30;
  uint64_t file_bytes = 0;  // of the temporary file; 0: by effort. A slow device gets a smaller one.
  uint64_t buffer_bytes =
      16 << 20;            // all memory for reads and writes; a read of more than a fourth is not tried
  double max_seconds = 0;  // 0: by effort
  uint64_t seed = 1;
  uint64_t measured_at_unix = 0;  // put into the profile
};

// `progress` is told the share of the work that is done, in [0, 1], and what comes next.
using ProbeProgress = FunctionRef<void(double share, std::string_view what)>;

// kIo when there is not enough space (checked before anything is written), when a write or read fails, and
// when what is read differs from what was written.
Result<DeviceProfile> ProbeDevice(const ProbeOptions& options, ProbeProgress progress);
Result<DeviceProfile> ProbeDevice(const ProbeOptions& options);
// The same through a given reader (`backend` is not looked at): what a decorated one does can be measured
// too.
Result<DeviceProfile> ProbeDeviceThrough(std::unique_ptr<ExtentReader> reader, const ProbeOptions& options,
                                         ProbeProgress progress);

}  // namespace frugal
