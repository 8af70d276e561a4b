#include "src/cli/bare_loop.h"

#include <algorithm>
#include <numeric>

#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/format/packed_format.h"
#include "src/kernels/plain_read.h"

namespace frugal {
namespace {

constexpr uint64_t kTileBytes = 256 * kKiB;  // as large as a tile of a matrix product
// Streamed before memory alone is timed: threads that slept while the reads were repeated share a core for some milliseconds.
constexpr uint64_t kWakingBytes = 256 * kMiB;
constexpr uint64_t kMostBytesInFlight = 16 * kMiB;
constexpr uint64_t kFileAlignment = 4096;

// As much as an engine's own reads go to, which the processor's caches do not hold: a device that writes into them is faster. No read takes
// more than half of a budget, and so not more than kMaxSegments times this.
uint64_t ScratchBytes(uint64_t ram_bytes) {
  constexpr uint64_t kMost = 16 * kMiB;
  if (ram_bytes == 0) return kMost;
  return std::clamp<uint64_t>(RoundUp(ram_bytes / (2 * ExtentReader::kMaxSegments), kFileAlignment), 64 * kKiB, kMost);
}

double Sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

}  // namespace

double BareLoopTimes::memory_bytes_per_second() const {
  const double ms = Sum(memory_ms);
  return ms > 0 ? 1e3 * static_cast<double>(touched_bytes) / ms : 0;
}

double BareLoopTimes::read_bytes_per_second() const {
  const double ms = Sum(reads_ms);
  return ms > 0 ? 1e3 * static_cast<double>(read_bytes) / ms : 0;
}

double BareLoopTimes::reads_per_second() const {
  const double ms = Sum(reads_ms);
  return ms > 0 ? 1e3 * static_cast<double>(num_reads) / ms : 0;
}

uint64_t LeftOfBudget(uint64_t ram_bytes, uint64_t taken_bytes) {
  if (ram_bytes == 0) return 0;
  return ram_bytes > taken_bytes ? ram_bytes - taken_bytes : 1;
}

Result<std::unique_ptr<BareLoop>> BareLoop::Open(const BareLoopOptions& options) {
  FRUGAL_ASSIGN(File file, File::Open(options.engine_options->model_path, options.engine_options->direct, kSectorBytes));
  std::unique_ptr<BareLoop> loop(new BareLoop(options, std::move(file)));
  FRUGAL_TRY(loop->Allocate());
  return loop;
}

uint64_t BareLoop::MemoryBytes(uint64_t ram_bytes, int num_threads) {
  constexpr uint64_t kBytesPerThread = 48 * kKiB;  // stack, kernel memory
  constexpr uint64_t kReaderBytes = 192 * kKiB;    // the ring and lists of what is in flight
  return ScratchBytes(ram_bytes) + kTileBytes + kReaderBytes + kBytesPerThread * static_cast<uint64_t>(num_threads);
}

Status BareLoop::Allocate() {
  FRUGAL_ASSIGN(scratch_, AlignedBuffer::Allocate(ScratchBytes(options_.engine_options->ram_bytes)));
  memory_.assign(options_.memory.begin(), options_.memory.end());
  FRUGAL_ASSIGN(own_memory_, AlignedBuffer::Allocate(std::max(kTileBytes, RoundDown(options_.own_memory_bytes, kTileBytes))));
  // Zero pages that were never written may be one and the same page.
  for (uint64_t at = 0; at < own_memory_.size_bytes(); at += 64) own_memory_.data()[at] = std::byte{1};
  memory_.emplace_back(own_memory_.data(), own_memory_.size_bytes());
  for (const std::span<const std::byte> part : memory_) num_memory_tiles_ += part.size() / kTileBytes;
  FRUGAL_ASSIGN(pool_, ThreadPool::Create(options_.engine_options->num_threads));
  ReaderOptions reader_options;
  reader_options.backend = options_.engine_options->io;
  reader_options.queue_depth = options_.queue_depth;
  const int fd = file_.fd();
  reader_options.fds = {&fd, 1};
  FRUGAL_ASSIGN(OpenedReader opened, OpenReader(reader_options));
  reader_ = std::make_unique<WholeReader>(std::move(opened.reader), options_.queue_depth);
  return {};
}

Status BareLoop::Repeat(const ReadRecording& recording, uint64_t touched_bytes, BareLoopTimes* times) {
  const std::span<const ReadRecord> all = recording.records();
  size_t begin = 0;
  for (uint32_t group = 0; group < recording.num_groups(); ++group) {
    size_t end = begin;
    while (end < all.size() && all[end].group == group) ++end;
    const std::span<const ReadRecord> reads = all.subspan(begin, end - begin);
    begin = end;
    double together = 0;
    if (touched_bytes > 0) {
      FRUGAL_ASSIGN(together, RunToken(reads, touched_bytes));
    }
    FRUGAL_ASSIGN(const double reads_alone, RunToken(reads, 0));
    if (touched_bytes == 0) together = reads_alone;
    StreamMemory(std::min(touched_bytes, kWakingBytes));
    FRUGAL_ASSIGN(const double memory_alone, RunToken({}, touched_bytes));
    times->together_ms.push_back(together);
    times->reads_ms.push_back(reads_alone);
    times->memory_ms.push_back(memory_alone);
    times->touched_bytes += touched_bytes;
    times->num_reads += reads.size();
    for (const ReadRecord& read : reads) times->read_bytes += read.size_bytes;
  }
  return {};
}

Result<double> BareLoop::RunToken(std::span<const ReadRecord> reads, uint64_t touched_bytes) {
  reads_ = reads;
  next_ = 0;
  const uint64_t start = NowNs();
  Pump(WaitMode::kPoll);
  if (touched_bytes > 0) StreamMemory(touched_bytes);
  while (!failure_ && (next_ < reads_.size() || reader_->num_pending() > 0)) Pump(WaitMode::kBlock);
  if (failure_) return MakeError(ErrorCode::kIo, "{}: bare loop: {}", file_.path(), DescribeFailure(*failure_));
  return static_cast<double>(NowNs() - start) / 1e6;
}

const std::byte* BareLoop::Tile(uint64_t index) const {
  index %= num_memory_tiles_;
  for (const std::span<const std::byte> part : memory_) {
    if (index < part.size() / kTileBytes) return part.data() + index * kTileBytes;
    index -= part.size() / kTileBytes;
  }
  return nullptr;
}

void BareLoop::StreamMemory(uint64_t touched_bytes) {
  pool_->Run(
      static_cast<int>((touched_bytes + kTileBytes - 1) / kTileBytes),
      [&](int tile, int worker) {
        const uint64_t found = PlainRead(Tile(static_cast<uint64_t>(tile)), kTileBytes);
        if (worker == 0) sink_ = found;
      },
      [&] { Pump(WaitMode::kPoll); });
}

// False when the reader has no room.
bool BareLoop::StartRead(const ReadRecord& read) {
  const uint64_t scratch_bytes = scratch_.size_bytes();
  std::array<iovec, ExtentReader::kMaxSegments> segments;
  size_t count = 0;
  if (scratch_at_ + read.size_bytes > scratch_bytes) scratch_at_ = 0;
  for (uint64_t left = read.size_bytes; left > 0; ++count) {
    // A larger read than the scratch goes over it several times.
    const uint64_t size_bytes = std::min(left, scratch_bytes - scratch_at_);
    segments[count] = {scratch_.data() + scratch_at_, size_bytes};
    left -= size_bytes;
  }
  if (!reader_->TrySubmit({&file_, read.offset_bytes, std::span(segments).first(count), read.size_bytes})) return false;
  scratch_at_ += RoundUp(read.size_bytes, kFileAlignment);
  return true;
}

void BareLoop::Pump(WaitMode mode) {
  while (next_ < reads_.size() && (bytes_in_flight_ == 0 || bytes_in_flight_ + reads_[next_].size_bytes <= kMostBytesInFlight)) {
    if (!StartRead(reads_[next_])) break;
    bytes_in_flight_ += reads_[next_++].size_bytes;
  }
  if (reader_->num_pending() == 0) return;
  std::array<WholeCompletion, 32> completions;
  const size_t count = reader_->Reap(completions, mode);
  for (const WholeCompletion& completion : std::span(completions).first(count)) {
    if (completion.failed) failure_ = completion.failure;
    bytes_in_flight_ -= completion.tag;
  }
}

}  // namespace frugal
