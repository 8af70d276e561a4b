#include "src/io/device_probe.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

#include "src/base/aligned_buffer.h"
#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/base/random.h"
#include "src/base/unique_fd.h"
#include "src/io/file.h"
#include "src/io/nameless_file.h"
#include "src/io/pattern.h"
#include "src/io/whole_reader.h"

namespace frugal {
namespace {

constexpr uint32_t kMaxDepth = 64;
constexpr uint64_t kWriteBytes = kMiB;
// In sequence it is read as weights are streamed (engine/plan.cc). The memory that reads go to counts: where a processor copies them, less of
// it, which stays in the cache, is faster.
constexpr uint64_t kSequentialBytes = 4 * kMiB;
constexpr uint32_t kSequentialDepth = 3;
constexpr uint64_t kLeastBufferBytes = 4 * kMiB;
constexpr uint64_t kLeastRandomBytes = kGiB;     // random reads go over at least so much of a file
constexpr uint64_t kSampleBytes = 512;           // of a read that is verified
constexpr uint64_t kVerifyEvery = 16;            // reads: comparing all would measure the processor
constexpr uint64_t kLeastFileBytes = 64 * kMiB;  // written even when the time for writing is over
constexpr double kWriteShare = 0.4;              // of the time
constexpr uint32_t kBundleBytes = 16 * 1024;     // of OPT-6.7B in 16 bits

// Of all threads, in the kernel too.
double ProcessCpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Grid {
  std::vector<uint32_t> sizes;
  std::vector<uint32_t> depths;
};

Grid GridOf(ProbeEffort effort) {
  constexpr uint32_t kKi = 1024;
  if (effort == ProbeEffort::kQuick) {
    return {{512, 4 * kKi, 16 * kKi, 64 * kKi, 256 * kKi, 1024 * kKi}, {1, 64}};
  }
  return {{512, 4 * kKi, 16 * kKi, 64 * kKi, 256 * kKi, 1024 * kKi, 4096 * kKi}, {1, 8, 64}};
}

std::string FolderOf(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return path;
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Status CheckSpace(const std::string& folder, uint64_t needed_bytes) {
  struct statvfs info {};
  if (statvfs(folder.c_str(), &info) != 0)
    return MakeError(ErrorCode::kIo, "{}: {}", folder, ErrnoText(errno));
  const uint64_t free_bytes = CheckedMultiply(info.f_bavail, info.f_frsize).value_or(UINT64_MAX);
  // The file system's own structures need room too.
  if (free_bytes / 20 * 19 >= needed_bytes) return {};
  return MakeError(ErrorCode::kIo, "{}: probing writes a temporary file of {}, and only {} are free", folder,
                   FormatSize(needed_bytes), FormatSize(free_bytes));
}

Status WriteAll(int fd, uint64_t offset_bytes, std::span<const std::byte> bytes, bool& direct) {
  while (!bytes.empty()) {
    const ssize_t put = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset_bytes));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno == EINVAL && direct) {
      fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_DIRECT);
      direct = false;
      continue;
    }
    if (put <= 0)
      return MakeError(ErrorCode::kIo, "writing at offset {}: {}", offset_bytes,
                       ErrnoText(put < 0 ? errno : ENOSPC));
    bytes = bytes.subspan(static_cast<size_t>(put));
    offset_bytes += static_cast<uint64_t>(put);
  }
  return {};
}

class Probe {
 public:
  Probe(const ProbeOptions& options, ProbeProgress progress)
      : options_(options), progress_(progress), random_(options.seed) {
    const bool is_quick = options.effort == ProbeEffort::kQuick;
    max_seconds_ = options.max_seconds > 0 ? options.max_seconds : (is_quick ? 10 : 60);
    wanted_file_bytes_ =
        RoundUp(options.file_bytes > 0 ? options.file_bytes : (is_quick ? kGiB : 4 * kGiB), kWriteBytes);
  }

  Result<DeviceProfile> Run(std::unique_ptr<ExtentReader> reader);

 private:
  struct Workload {
    uint32_t read_bytes = 0;
    uint32_t queue_depth = 0;
    bool sequential = false;
  };
  struct Rate {
    uint64_t num_reads = 0;
    uint32_t read_bytes = 0;
    double seconds = 0;
    double cpu_seconds = 0;  // of the process, until the last read was there
    double iops() const { return static_cast<double>(num_reads) / seconds; }
    double bytes_per_second() const { return iops() * read_bytes; }
  };

  double ElapsedSeconds() const { return static_cast<double>(NowNs() - start_ns_) * 1e-9; }
  Status OpenOwnFile();
  Status OpenTemporaryFile();
  Status WritePattern(int fd, uint64_t& written_bytes);
  std::vector<Workload> Workloads() const;
  Status MeasureAll(DeviceProfile& profile);
  Result<Rate> Measure(const Workload& workload, double seconds);
  uint64_t NextOffset(const Workload& workload);
  Status Verify(uint64_t offset_bytes, std::span<const std::byte> bytes);

  const ProbeOptions& options_;
  ProbeProgress progress_;
  Random random_;
  double max_seconds_ = 0;
  uint64_t wanted_file_bytes_ = 0;
  uint64_t start_ns_ = NowNs();
  AlignedBuffer memory_;  // [buffer_bytes]: for writing first, then the destinations of reads
  UniqueFd temporary_;
  std::optional<File> file_;
  bool verified_ = false;
  std::unique_ptr<WholeReader> reader_;  // declared after what it reads into
  uint64_t next_sequential_bytes_ = 0;
  uint64_t random_bytes_ = 0;  // random reads go to the first so many of the file
};

// The path's own file, when it is one and large enough.
Status Probe::OpenOwnFile() {
  struct stat info {};
  if (stat(options_.path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return {};
  FRUGAL_ASSIGN(File file, File::Open(options_.path, DirectMode::kTry));
  if (file.size_bytes() >= options_.own_file_bytes) file_ = std::move(file);
  return {};
}

Status Probe::OpenTemporaryFile() {
  const std::string folder = FolderOf(options_.path);
  FRUGAL_TRY(CheckSpace(folder, wanted_file_bytes_));
  FRUGAL_ASSIGN(temporary_, OpenNamelessFile(folder));
  uint64_t written_bytes = 0;
  if (Status written = WritePattern(temporary_.get(), written_bytes); !written) {
    return WithContext(std::move(written).error(), folder + ": temporary file");
  }
  Result<File> file = File::Open(fmt::format("/proc/self/fd/{}", temporary_.get()), DirectMode::kTry);
  if (!file) return WithContext(std::move(file).error(), folder + ": temporary file");
  file_ = std::move(file).value();
  verified_ = true;
  return {};
}

// Writes until the file is whole or the time for writing is over.
Status Probe::WritePattern(int fd, uint64_t& written_bytes) {
  bool direct = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT) == 0;
  const std::span<std::byte> bytes = memory_.bytes().first(kWriteBytes);
  const double end_seconds = kWriteShare * max_seconds_;
  while (written_bytes < wanted_file_bytes_) {
    const double elapsed = ElapsedSeconds();
    if (elapsed > end_seconds && written_bytes >= kLeastFileBytes) break;
    if (written_bytes % (32 * kMiB) == 0)
      progress_(std::min(elapsed, end_seconds) / max_seconds_, "writing a test file");
    FillPattern(options_.seed, written_bytes, bytes);
    FRUGAL_TRY(WriteAll(fd, written_bytes, bytes, direct));
    written_bytes += bytes.size();
  }
  if (!direct) {  // what is still in the page cache would be read from there
    if (fdatasync(fd) != 0) return MakeError(ErrorCode::kIo, "fdatasync: {}", ErrnoText(errno));
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  }
  return {};
}

std::vector<Probe::Workload> Probe::Workloads() const {
  const Grid grid = GridOf(options_.effort);
  std::vector<Workload> workloads;
  for (const uint32_t size : grid.sizes) {
    const uint64_t most = std::min(options_.buffer_bytes, file_->size_bytes()) / size;
    if (size % file_->alignment_bytes() != 0 || most < 4) continue;
    uint32_t last_depth = 0;
    for (const uint32_t depth : grid.depths) {
      const uint32_t bounded = static_cast<uint32_t>(std::min<uint64_t>(depth, most));
      if (bounded != last_depth) workloads.push_back({size, bounded, false});
      last_depth = bounded;
    }
  }
  return workloads;
}

uint64_t Probe::NextOffset(const Workload& workload) {
  const uint64_t file_bytes = file_->size_bytes();
  if (workload.sequential) {
    if (next_sequential_bytes_ + workload.read_bytes > file_bytes) next_sequential_bytes_ = 0;
    return std::exchange(next_sequential_bytes_, next_sequential_bytes_ + workload.read_bytes);
  }
  // Bundles lie at multiples of 512 or 4096 bytes, not of their own size.
  const uint64_t unit =
      std::max<uint64_t>(std::min<uint32_t>(workload.read_bytes, 4096), file_->alignment_bytes());
  return random_.Below((random_bytes_ - workload.read_bytes) / unit + 1) * unit;
}

Status Probe::Verify(uint64_t offset_bytes, std::span<const std::byte> bytes) {
  const uint64_t skip = random_.Below(bytes.size() / kSampleBytes) * kSampleBytes;
  if (IsPattern(options_.seed, offset_bytes + skip, bytes.subspan(skip, kSampleBytes))) return {};
  return MakeError(ErrorCode::kIo,
                   "{}: the device returned other bytes than were written (offset {} of a test file)",
                   FolderOf(options_.path), offset_bytes + skip);
}

// Keeps queue_depth reads in flight for `seconds`. What arrives afterwards does not count, unless nearly
// nothing came before.
Result<Probe::Rate> Probe::Measure(const Workload& workload, double seconds) {
  std::vector<uint64_t> offsets(workload.queue_depth);
  std::vector<uint32_t> free(workload.queue_depth);
  for (uint32_t i = 0; i < workload.queue_depth; ++i) free[i] = i;
  const uint64_t start_ns = NowNs();
  const uint64_t end_ns = start_ns + static_cast<uint64_t>(seconds * 1e9);
  uint64_t now_ns = start_ns;
  uint64_t num_reads = 0;
  std::optional<Rate> in_time;
  Status failure;
  const double cpu_start = ProcessCpuSeconds();
  while (now_ns < end_ns || free.size() < workload.queue_depth) {
    while (failure && now_ns < end_ns && !free.empty()) {
      const uint32_t i = free.back();
      free.pop_back();
      offsets[i] = NextOffset(workload);
      const iovec segment = {memory_.data() + uint64_t{i} * workload.read_bytes, workload.read_bytes};
      CHECK(reader_->TrySubmit({&*file_, offsets[i], {&segment, 1}, i}));
    }
    WholeCompletion completions[kMaxDepth];
    const size_t count = reader_->Reap(completions, WaitMode::kBlock);
    for (size_t k = 0; k < count; ++k) {
      const uint32_t i = static_cast<uint32_t>(completions[k].tag);
      free.push_back(i);
      const std::span<const std::byte> bytes =
          memory_.bytes().subspan(uint64_t{i} * workload.read_bytes, workload.read_bytes);
      if (completions[k].failed && failure) {
        failure = MakeError(ErrorCode::kIo, "{}: {}", options_.path, DescribeFailure(completions[k].failure));
      } else if (verified_ && failure && num_reads % kVerifyEvery == 0) {
        failure = Verify(offsets[i], bytes);
      }
      ++num_reads;
    }
    now_ns = NowNs();
    if (!failure) now_ns = std::max(now_ns, end_ns);  // drain
    if (now_ns >= end_ns && !in_time)
      in_time = Rate{num_reads, workload.read_bytes, static_cast<double>(now_ns - start_ns) * 1e-9};
  }
  if (!failure) return std::move(failure).error();
  Rate rate{num_reads, workload.read_bytes, static_cast<double>(now_ns - start_ns) * 1e-9};
  const double cpu_per_read = (ProcessCpuSeconds() - cpu_start) / static_cast<double>(std::max<uint64_t>(1, num_reads));
  if (in_time->num_reads > 2 * uint64_t{workload.queue_depth}) rate = *in_time;
  rate.cpu_seconds = cpu_per_read * static_cast<double>(rate.num_reads);
  return rate;
}

Status Probe::MeasureAll(DeviceProfile& profile) {
  const std::vector<Workload> workloads = Workloads();
  if (workloads.empty()) {
    return MakeError(ErrorCode::kUsage, "{}: a file of {} is too small to probe", options_.path,
                     FormatSize(file_->size_bytes()));
  }
  const double left = std::max(max_seconds_ - ElapsedSeconds(), 0.1 * max_seconds_);
  // The sequential one takes two; a tenth is for draining and for freeing the file.
  const double each = 0.9 * left / static_cast<double>(workloads.size() + 2);
  progress_(std::min(ElapsedSeconds() / max_seconds_, 1.0), "sequential reads");
  const uint32_t sequential_bytes =
      static_cast<uint32_t>(std::min({kSequentialBytes, options_.buffer_bytes / 4 / 4096 * 4096, file_->size_bytes() / 4 / 4096 * 4096}));
  FRUGAL_ASSIGN(
      const Rate sequential,
      Measure({std::max(sequential_bytes, workloads[0].read_bytes), kSequentialDepth, true}, 2 * each));
  profile.sequential_bytes_per_second = sequential.bytes_per_second();
  // Disks in a network read a block slowly for the first time. A model's blocks are read again and again: so are those that have been read
  // just now.
  random_bytes_ = std::min(file_->size_bytes(), std::max(kLeastRandomBytes, sequential.num_reads * sequential.read_bytes));
  for (const Workload& workload : workloads) {
    progress_(
        std::min(ElapsedSeconds() / max_seconds_, 1.0),
        fmt::format("random reads of {}, {} at once", FormatSize(workload.read_bytes), workload.queue_depth));
    FRUGAL_ASSIGN(const Rate rate, Measure(workload, each));
    profile.random.push_back(
        {workload.read_bytes, workload.queue_depth, rate.iops(), rate.bytes_per_second()});
    if (workload.read_bytes <= kBundleBytes) {  // sizes and depths ascend: the last one stays
      profile.cpu_seconds_per_read = rate.cpu_seconds / static_cast<double>(std::max<uint64_t>(1, rate.num_reads));
    }
  }
  // What was read in sequence was read for the first time. The last are the largest reads, several at once.
  profile.sequential_bytes_per_second = std::max(profile.sequential_bytes_per_second, profile.random.back().bytes_per_second);
  progress_(1, "done");
  return {};
}

Result<DeviceProfile> Probe::Run(std::unique_ptr<ExtentReader> reader) {
  if (options_.buffer_bytes < kLeastBufferBytes) {
    return MakeError(ErrorCode::kUsage, "probing needs at least {} of memory", FormatSize(kLeastBufferBytes));
  }
  DeviceProfile profile;
  FRUGAL_ASSIGN(const DeviceIdentity identity, IdentifyDevice(options_.path));
  FRUGAL_ASSIGN(memory_, AlignedBuffer::Allocate(options_.buffer_bytes));
  reader_ = std::make_unique<WholeReader>(std::move(reader), kMaxDepth, 1);
  FRUGAL_TRY(OpenOwnFile());
  if (!file_) FRUGAL_TRY(OpenTemporaryFile());
  FRUGAL_TRY(MeasureAll(profile));
  profile.device_name = identity.name;
  profile.device_id = identity.id;
  profile.backend = reader_->backend_name();
  profile.direct_note = file_->direct_note();
  profile.file_bytes = file_->size_bytes();
  profile.verified = verified_;
  profile.measured_at_unix = options_.measured_at_unix;
  return profile;
}

}  // namespace

Result<DeviceProfile> ProbeDeviceThrough(std::unique_ptr<ExtentReader> reader, const ProbeOptions& options,
                                         ProbeProgress progress) {
  return Probe(options, progress).Run(std::move(reader));
}

Result<DeviceProfile> ProbeDevice(const ProbeOptions& options, ProbeProgress progress) {
  ReaderOptions reader_options;
  reader_options.backend = options.backend;
  reader_options.queue_depth = kMaxDepth;
  FRUGAL_ASSIGN(OpenedReader opened, OpenReader(reader_options));
  return ProbeDeviceThrough(std::move(opened.reader), options, progress);
}

Result<DeviceProfile> ProbeDevice(const ProbeOptions& options) {
  return ProbeDevice(options, [](double, std::string_view) {});
}

}  // namespace frugal
