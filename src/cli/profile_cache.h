// Measurements of devices, kept as JSON between runs: one file for each device in a folder of the user's, so
// that `plan` and `bench` know the device without measuring it again. Losing the folder loses nothing but
// time.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "src/base/result.h"
#include "src/io/device_probe.h"

namespace frugal {

struct CachedProfile {
  DeviceProfile profile;
  ProbeEffort effort = ProbeEffort::kFull;
};

// FRUGAL_CACHE_DIR, else $XDG_CACHE_HOME/frugal, else ~/.cache/frugal; empty when the environment names none
// of them.
std::string ProfileDirectory();
// The file of a device in that folder.
std::string ProfilePath(const std::string& directory, const std::string& device_id);

nlohmann::ordered_json ProfileToJson(const CachedProfile& cached);
// kFailed with `name` when the text is no profile: not JSON, a missing or negative number, more points than
// anybody measures.
Result<CachedProfile> ProfileFromJson(const std::string& text, const std::string& name);

// Nothing when there is no such file. kFailed when it is damaged or belongs to another device, kIo when it
// cannot be read.
Result<std::optional<CachedProfile>> LoadProfile(const std::string& directory, const std::string& device_id);
// Makes the folder when it is not there. kIo names what cannot be written.
Status SaveProfile(const std::string& directory, const CachedProfile& cached);

// The profile of the device that holds `path`, or nothing; what is wrong with the cache is a warning on
// stderr.
std::optional<DeviceProfile> FindProfile(const std::string& path);

}  // namespace frugal
