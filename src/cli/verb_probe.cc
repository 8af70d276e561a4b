// frugal probe: measures the device of a model or folder, prints the tables, keeps them for `plan` and
// `bench`.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <ctime>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "src/base/aligned_buffer.h"
#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/base/random.h"
#include "src/base/thread_pool.h"
#include "src/cli/ablation.h"
#include "src/cli/bare_loop.h"
#include "src/cli/profile_cache.h"
#include "src/cli/product_speeds.h"
#include "src/cli/progress_bar.h"
#include "src/cli/system_limits.h"
#include "src/cli/verbs.h"
#include "src/kernels/plain_read.h"

namespace frugal {
namespace {

constexpr Choice<IoBackend> kBackends[] = {
    {"auto", IoBackend::kAuto}, {"uring", IoBackend::kUring}, {"pread", IoBackend::kPread}};

struct ProbeFlags {
  std::string path;
  std::string io = "auto";
  bool quick = false, json = false, force = false;
};

std::string FormatTime(uint64_t unix_seconds) {
  const std::time_t time = static_cast<std::time_t>(unix_seconds);
  std::tm parts{};
  char text[64];
  if (gmtime_r(&time, &parts) == nullptr) return "an unknown time";
  return {text, std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M UTC", &parts)};
}

std::string FormatReadSize(uint32_t bytes) {
  if (bytes >= kMiB) return fmt::format("{} MiB", bytes / kMiB);
  return bytes >= kKiB ? fmt::format("{} KiB", bytes / kKiB) : fmt::format("{} B", bytes);
}

// A table of read sizes (rows) by queue depths (columns).
template <typename Cell>
std::string FormatTable(const DeviceProfile& profile, std::string_view title, Cell cell) {
  std::set<uint32_t> sizes, depths;
  for (const DeviceProfile::Point& point : profile.random) {
    sizes.insert(point.read_bytes);
    depths.insert(point.queue_depth);
  }
  std::string text = fmt::format("\n{}\n{:>10}", title, "read size");
  for (const uint32_t depth : depths) text += fmt::format("{:>12}", fmt::format("depth {}", depth));
  for (const uint32_t size : sizes) {
    text += fmt::format("\n{:>10}", FormatReadSize(size));
    for (const uint32_t depth : depths) {
      const auto point = std::find_if(
          profile.random.begin(), profile.random.end(),
          [&](const DeviceProfile::Point& p) { return p.read_bytes == size && p.queue_depth == depth; });
      text +=
          point == profile.random.end() ? fmt::format("{:>12}", "-") : fmt::format("{:>12}", cell(*point));
    }
  }
  return text + "\n";
}

std::string FormatProfile(const DeviceProfile& profile) {
  std::string text = fmt::format(
      "{}: {}, {}, {} read{}, measured {}\n", profile.device_name, profile.backend,
      profile.direct_note.empty() ? "O_DIRECT" : fmt::format("buffered ({})", profile.direct_note),
      FormatSize(profile.file_bytes), profile.verified ? " and verified" : "",
      FormatTime(profile.measured_at_unix));
  text += fmt::format("sequential: {:.2f} GB/s\n", profile.sequential_bytes_per_second / 1e9);
  if (profile.memory_bytes_per_second > 0) text += fmt::format("memory: {:.1f} GB/s\n", profile.memory_bytes_per_second / 1e9);
  if (profile.cpu_seconds_per_read > 0) text += fmt::format("processor's time for a read: {:.1f} us\n", 1e6 * profile.cpu_seconds_per_read);
  text += FormatTable(profile, "random reads, GB/s", [](const DeviceProfile::Point& point) {
    return fmt::format("{:.3f}", point.bytes_per_second / 1e9);
  });
  text += FormatTable(profile, "random reads, reads/s (IOPS)",
                      [](const DeviceProfile::Point& point) { return fmt::format("{:.0f}", point.iops); });
  if (!profile.products.empty()) {
    text += fmt::format("\na thread's products of weights in its cache, GB/s\n{:>10}{:>12}{:>12}{:>12}\n", "type", "matrix", "rows",
                        "sum of rows");
  }
  for (const ProductSpeed& speed : profile.products) {
    text += fmt::format("{:>10}{:>12.1f}{:>12.1f}{:>12.1f}\n", DTypeName(speed.dtype), speed.matrix / 1e9, speed.rows / 1e9,
                        speed.sum / 1e9);
  }
  return text + fmt::format("\na gap of up to {} costs at most half of a read of its own to read over\n",
                            FormatSize(GapWorthReading(profile)));
}

// All threads read 256 MiB between two parts of the probe, since the neighbours of a virtual machine come and go. Six times, of which the
// fastest counts: threads that slept while the device was measured may share a core for the first 60 ms.
class MemoryMeter {
 public:
  MemoryMeter() : buffer_(AlignedBuffer::Allocate(kBytes)), pool_(ThreadPool::Create(UsableCores())) {
    if (buffer_) std::memset(buffer_->data(), 1, kBytes);
  }
  // Does nothing where samples had more than a twelfth of the time until now.
  void Sample() {
    if (!buffer_ || !pool_ || kTimesOfSamples * taken_ns_ > NowNs() - begin_ns_) return;
    uint64_t fastest_ns = std::numeric_limits<uint64_t>::max();
    for (int pass = 0; pass < kPasses; ++pass) {
      const uint64_t start_ns = NowNs();
      Read();
      const uint64_t pass_ns = NowNs() - start_ns;
      taken_ns_ += pass_ns;
      fastest_ns = std::min(fastest_ns, pass_ns);
    }
    sampled_ns_ += fastest_ns;
    ++num_samples_;
  }
  // Empty where there is no such memory.
  std::span<const std::byte> memory() const { return buffer_ ? buffer_->bytes() : std::span<const std::byte>(); }
  // Of all samples; 0 of none.
  double bytes_per_second() const {
    return sampled_ns_ > 0 ? static_cast<double>(num_samples_ * kBytes) * 1e9 / static_cast<double>(sampled_ns_) : 0;
  }

 private:
  static constexpr uint64_t kBytes = 256 * kMiB;
  static constexpr uint64_t kTileBytes = 256 * kKiB;
  static constexpr int kPasses = 6;
  static constexpr uint64_t kTimesOfSamples = 12;

  void Read() {
    (*pool_)->Run(static_cast<int>(kBytes / kTileBytes), [&](int tile, int) {
      sink_.fetch_or(PlainRead(buffer_->data() + static_cast<uint64_t>(tile) * kTileBytes, kTileBytes), std::memory_order_relaxed);
    });
  }

  Result<AlignedBuffer> buffer_;
  const Result<std::unique_ptr<ThreadPool>> pool_;
  std::atomic<uint64_t> sink_ = 0;
  const uint64_t begin_ns_ = NowNs();
  uint64_t num_samples_ = 0, sampled_ns_ = 0, taken_ns_ = 0;
};

// What reads of 16 KiB take of the threads' time while they stream memory, the interrupts' part included, which no process is charged
// for: together minus the memory alone. 0 where the path is no file large enough, or the device too slow to tell.
double MeasureProcessorPerRead(const ProbeFlags& flags, IoBackend backend, const DeviceProfile& profile,
                               std::span<const std::byte> memory) {
  constexpr uint32_t kReadBytes = 16 * kKiB;
  constexpr uint32_t kRounds = 7;
  const double memory_seconds = static_cast<double>(memory.size()) / profile.memory_bytes_per_second;
  const double seconds_per_read = ExpectedReadSeconds(profile, 1000, kReadBytes) / 1000;
  // Few enough to be done before the memory is through.
  const uint64_t num_reads = static_cast<uint64_t>(0.6 * memory_seconds / seconds_per_read);
  const Result<File> file = File::Open(flags.path, DirectMode::kTry);
  if (!file || file->size_bytes() < 64 * uint64_t{kReadBytes} || num_reads < 16) return 0;
  ReadRecording recording(num_reads * kRounds);
  recording.Start();
  Random random(1);
  for (uint64_t i = 0; i < num_reads * kRounds; ++i) {
    const iovec segment{nullptr, kReadBytes};
    recording.Add({.offset_bytes = random.Below(file->size_bytes() / kReadBytes) * kReadBytes, .destinations = {&segment, 1}});
    if ((i + 1) % num_reads == 0) recording.EndGroup();
  }
  EngineOptions options;
  options.model_path = flags.path;
  options.io = backend;
  options.num_threads = std::min(UsableCores(), ThreadPool::kMaxThreads);
  BareLoopOptions bare;
  bare.engine_options = &options;
  bare.memory[0] = memory;
  const Result<std::unique_ptr<BareLoop>> loop = BareLoop::Open(bare);
  BareLoopTimes times;
  if (!loop || !(*loop)->Repeat(recording, memory.size(), &times)) return 0;
  // Where the reads take longer than they were expected to, the threads waited for them.
  if (Percentile(times.reads_ms, 0.5) > Percentile(times.memory_ms, 0.5)) return 0;
  const double more_ms = Percentile(times.together_ms, 0.5) - Percentile(times.memory_ms, 0.5);
  // Far above the process's own time per read they waited too.
  constexpr double kMostTimesOfOwn = 3;
  return std::min(more_ms / 1e3 * options.num_threads / static_cast<double>(num_reads), kMostTimesOfOwn * profile.cpu_seconds_per_read);
}

Result<DeviceProfile> Measure(const ProbeFlags& flags, IoBackend backend) {
  ProbeOptions options;
  options.path = flags.path;
  options.effort = flags.quick ? ProbeEffort::kQuick : ProbeEffort::kFull;
  options.backend = backend;
  options.measured_at_unix = static_cast<uint64_t>(std::time(nullptr));
  ProgressBar bar("probing");
  MemoryMeter memory;
  const auto progress = [&bar, &memory](double share, std::string_view what) {
    bar.Update(share, what);
    memory.Sample();
  };
  FRUGAL_ASSIGN(DeviceProfile profile, ProbeDevice(options, progress));
  memory.Sample();
  profile.memory_bytes_per_second = memory.bytes_per_second();
  if (profile.memory_bytes_per_second > 0) {
    profile.cpu_seconds_per_read = std::max(profile.cpu_seconds_per_read, MeasureProcessorPerRead(flags, backend, profile, memory.memory()));
  }
  FRUGAL_ASSIGN(profile.products, MeasureProductSpeeds());
  return profile;
}

// A full measurement serves where a quick one is asked for; another backend's does not.
bool Serves(const CachedProfile& cached, const ProbeFlags& flags, IoBackend backend) {
  if (cached.effort == ProbeEffort::kQuick && !flags.quick) return false;
  if (backend == IoBackend::kPread) return cached.profile.backend == "pread";
  return backend == IoBackend::kAuto || cached.profile.backend != "pread";
}

Status Probe(const ProbeFlags& flags) {
  FRUGAL_ASSIGN(const IoBackend backend, ParseChoice("--io", flags.io, kBackends));
  FRUGAL_ASSIGN(const std::string device_id, DeviceIdOf(flags.path));
  const std::string directory = ProfileDirectory();
  CachedProfile cached;
  bool measured = true;
  if (!flags.force && !directory.empty()) {
    Result<std::optional<CachedProfile>> found = LoadProfile(directory, device_id);
    if (!found) fmt::print(stderr, "warning: {}: measuring anew\n", found.error().message);
    if (found && found->has_value() && Serves(**found, flags, backend)) {
      cached = std::move(**found);
      measured = false;
    }
  }
  if (measured) {
    FRUGAL_ASSIGN(cached.profile, Measure(flags, backend));
    cached.effort = flags.quick ? ProbeEffort::kQuick : ProbeEffort::kFull;
    const Status saved = SaveProfile(directory, cached);
    if (!saved) fmt::print(stderr, "warning: the measurement is not kept: {}\n", saved.error().message);
  } else {
    fmt::print(stderr, "measured before (--force measures anew)\n");
  }
  StandardOutput out;
  if (!flags.json) return out.Print(FormatProfile(cached.profile));
  nlohmann::ordered_json json = ProfileToJson(cached);
  json["gap_worth_reading_bytes"] = GapWorthReading(cached.profile);
  return out.Print(json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace

void AddProbeVerb(CLI::App& app, Exit& exit) {
  CLI::App* sub =
      app.add_subcommand("probe", "Measure the device of a model or folder: sequential and random reads");
  auto flags = std::make_shared<ProbeFlags>();
  sub->add_option("path", flags->path, "a model file or a folder on the device")->required();
  sub->add_flag("--quick", flags->quick, "about 10 s and 1 GiB instead of a minute and 4 GiB");
  sub->add_flag("--json", flags->json, "print JSON");
  sub->add_flag("--force", flags->force, "measure anew even if the device is known");
  sub->add_option("--io", flags->io, "auto, uring, pread")->capture_default_str();
  exit.RunAsCallback(*sub, [flags] { return Probe(*flags); });
}

}  // namespace frugal
