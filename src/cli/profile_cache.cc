#include "src/cli/profile_cache.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "src/base/bytes.h"
#include "src/cli/common.h"
#include "src/format/byte_source.h"
#include "src/format/packed_format.h"

namespace frugal {
namespace {

constexpr uint64_t kMaxProfileBytes = kMiB;
constexpr size_t kMaxPoints = 1000;

// A finite number that is not negative.
Result<double> GetNumber(const nlohmann::json& object, const char* key, const std::string& name) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) {
    return MakeError(ErrorCode::kFailed, "{}: {} is missing or no number", name, key);
  }
  const double value = found->get<double>();
  if (!(value >= 0 && value < 1e18)) {
    return MakeError(ErrorCode::kFailed, "{}: {} is {}, expected 0 to 1e18", name, key, value);
  }
  return value;
}

Result<uint32_t> GetCount(const nlohmann::json& object, const char* key, const std::string& name) {
  FRUGAL_ASSIGN(const double value, GetNumber(object, key, name));
  if (value < 1 || value > 4e9)
    return MakeError(ErrorCode::kFailed, "{}: {} is {}, expected 1 to 4e9", name, key, value);
  return static_cast<uint32_t>(value);
}

std::string GetText(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

Result<DeviceProfile::Point> GetPoint(const nlohmann::json& object, const std::string& name) {
  if (!object.is_object()) return MakeError(ErrorCode::kFailed, "{}: a point of random is no object", name);
  DeviceProfile::Point point;
  FRUGAL_ASSIGN(point.read_bytes, GetCount(object, "read_bytes", name));
  FRUGAL_ASSIGN(point.queue_depth, GetCount(object, "queue_depth", name));
  FRUGAL_ASSIGN(point.iops, GetNumber(object, "iops", name));
  FRUGAL_ASSIGN(point.bytes_per_second, GetNumber(object, "bytes_per_second", name));
  return point;
}

Result<ProductSpeed> GetProductSpeed(const nlohmann::json& object, const std::string& name) {
  const std::optional<DType> dtype = object.is_object() ? ParseDType(GetText(object, "type")) : std::nullopt;
  if (!dtype || !IsWeightType(*dtype)) return MakeError(ErrorCode::kFailed, "{}: one of products is of no type of weights", name);
  ProductSpeed speed;
  speed.dtype = *dtype;
  FRUGAL_ASSIGN(speed.matrix, GetNumber(object, "matrix_bytes_per_second", name));
  FRUGAL_ASSIGN(speed.rows, GetNumber(object, "rows_bytes_per_second", name));
  FRUGAL_ASSIGN(speed.sum, GetNumber(object, "sum_bytes_per_second", name));
  return speed;
}

}  // namespace

std::string ProfileDirectory() {
  const auto get = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  if (const std::string own = get("FRUGAL_CACHE_DIR"); !own.empty()) return own;
  if (const std::string xdg = get("XDG_CACHE_HOME"); !xdg.empty()) return xdg + "/frugal";
  if (const std::string home = get("HOME"); !home.empty()) return home + "/.cache/frugal";
  return "";
}

std::string ProfilePath(const std::string& directory, const std::string& device_id) {
  return fmt::format("{}/device-{:016x}.json", directory, HashBytes(std::as_bytes(std::span(device_id))));
}

nlohmann::ordered_json ProfileToJson(const CachedProfile& cached) {
  const DeviceProfile& profile = cached.profile;
  nlohmann::ordered_json json;
  json["device_name"] = profile.device_name;
  json["device_id"] = profile.device_id;
  json["effort"] = cached.effort == ProbeEffort::kQuick ? "quick" : "full";
  json["backend"] = profile.backend;
  json["direct_note"] = profile.direct_note;
  json["file_bytes"] = profile.file_bytes;
  json["verified"] = profile.verified;
  json["measured_at_unix"] = profile.measured_at_unix;
  json["sequential_bytes_per_second"] = profile.sequential_bytes_per_second;
  json["memory_bytes_per_second"] = profile.memory_bytes_per_second;
  json["cpu_seconds_per_read"] = profile.cpu_seconds_per_read;
  json["random"] = nlohmann::ordered_json::array();
  for (const DeviceProfile::Point& point : profile.random) {
    json["random"].push_back({{"read_bytes", point.read_bytes},
                              {"queue_depth", point.queue_depth},
                              {"iops", point.iops},
                              {"bytes_per_second", point.bytes_per_second}});
  }
  json["products"] = nlohmann::ordered_json::array();
  for (const ProductSpeed& speed : profile.products) {
    json["products"].push_back({{"type", DTypeName(speed.dtype)},
                                {"matrix_bytes_per_second", speed.matrix},
                                {"rows_bytes_per_second", speed.rows},
                                {"sum_bytes_per_second", speed.sum}});
  }
  return json;
}

Result<CachedProfile> ProfileFromJson(const std::string& text, const std::string& name) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return MakeError(ErrorCode::kFailed, "{}: not a JSON object", name);
  CachedProfile cached;
  DeviceProfile& profile = cached.profile;
  profile.device_name = GetText(json, "device_name");
  profile.device_id = GetText(json, "device_id");
  profile.backend = GetText(json, "backend");
  profile.direct_note = GetText(json, "direct_note");
  cached.effort = GetText(json, "effort") == "quick" ? ProbeEffort::kQuick : ProbeEffort::kFull;
  profile.verified = json.contains("verified") && json["verified"] == true;
  FRUGAL_ASSIGN(const double file_bytes, GetNumber(json, "file_bytes", name));
  FRUGAL_ASSIGN(const double measured_at, GetNumber(json, "measured_at_unix", name));
  profile.file_bytes = static_cast<uint64_t>(file_bytes);
  profile.measured_at_unix = static_cast<uint64_t>(measured_at);
  FRUGAL_ASSIGN(profile.sequential_bytes_per_second, GetNumber(json, "sequential_bytes_per_second", name));
  if (!(profile.sequential_bytes_per_second > 0)) {
    return MakeError(ErrorCode::kFailed, "{}: sequential_bytes_per_second is 0", name);
  }
  if (json.contains("memory_bytes_per_second")) {  // profiles of earlier versions lack some
    FRUGAL_ASSIGN(profile.memory_bytes_per_second, GetNumber(json, "memory_bytes_per_second", name));
  }
  if (json.contains("cpu_seconds_per_read")) {
    FRUGAL_ASSIGN(profile.cpu_seconds_per_read, GetNumber(json, "cpu_seconds_per_read", name));
  }
  const auto random = json.find("random");
  if (random == json.end() || !random->is_array() || random->size() > kMaxPoints) {
    return MakeError(ErrorCode::kFailed, "{}: random is no list of at most {} points", name, kMaxPoints);
  }
  for (const nlohmann::json& item : *random) {
    FRUGAL_ASSIGN(const DeviceProfile::Point point, GetPoint(item, name));
    profile.random.push_back(point);
  }
  if (const auto products = json.find("products"); products != json.end()) {
    if (!products->is_array() || products->size() > std::size(kWeightTypes)) {
      return MakeError(ErrorCode::kFailed, "{}: products is no list of at most {} types", name, std::size(kWeightTypes));
    }
    for (const nlohmann::json& item : *products) {
      FRUGAL_ASSIGN(const ProductSpeed speed, GetProductSpeed(item, name));
      profile.products.push_back(speed);
    }
  }
  return cached;
}

Result<std::optional<CachedProfile>> LoadProfile(const std::string& directory, const std::string& device_id) {
  const std::string path = ProfilePath(directory, device_id);
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::optional<CachedProfile>();
  FRUGAL_ASSIGN(const auto source, OpenFileSource(path));
  if (source->size_bytes() > kMaxProfileBytes) {
    return MakeError(ErrorCode::kFailed, "{}: {} bytes are no profile", path, source->size_bytes());
  }
  std::string text(source->size_bytes(), '\0');
  FRUGAL_TRY(source->Read(0, std::as_writable_bytes(std::span(text))));
  FRUGAL_ASSIGN(CachedProfile cached, ProfileFromJson(text, path));
  if (cached.profile.device_id != device_id) {
    return MakeError(ErrorCode::kFailed, "{}: belongs to another device", path);
  }
  return std::optional<CachedProfile>(std::move(cached));
}

Status SaveProfile(const std::string& directory, const CachedProfile& cached) {
  if (directory.empty()) {
    return Error{ErrorCode::kIo, "no folder for the cache: set FRUGAL_CACHE_DIR, XDG_CACHE_HOME or HOME"};
  }
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return MakeError(ErrorCode::kIo, "{}: {}", directory, error.message());
  // Names come from the device: bytes that are no UTF-8 must not throw.
  const std::string text =
      ProfileToJson(cached).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  return WriteTextFile(ProfilePath(directory, cached.profile.device_id), text);
}

std::optional<DeviceProfile> FindProfile(const std::string& path) {
  const std::string directory = ProfileDirectory();
  const Result<std::string> device_id = DeviceIdOf(path);
  if (directory.empty() || !device_id) return std::nullopt;
  Result<std::optional<CachedProfile>> cached = LoadProfile(directory, *device_id);
  if (!cached) {
    fmt::print(stderr, "warning: {}: the device counts as not measured\n", cached.error().message);
    return std::nullopt;
  }
  if (!cached->has_value()) return std::nullopt;
  return std::move((*cached)->profile);
}

}  // namespace frugal
