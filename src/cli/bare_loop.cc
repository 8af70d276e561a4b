#include "src/cli/bare_loop.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>

#include "src/base/aligned_buffer.h"
#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/base/thread_pool.h"
#include "src/format/packed_format.h"
#include "src/io/whole_reader.h"
#include "src/kernels/plain_read.h"

namespace frugal {
namespace {

constexpr uint64_t kTileBytes = 256 * kKiB;        // as large as a tile of a matrix product
constexpr uint64_t kMostScratchBytes = 16 * kMiB;  // for what is read

// Of the budget, for code, stacks and the recording.
uint64_t LeftFree(uint64_t ram_bytes) { return 6 * kMiB + ram_bytes / 64; }

double Sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

class BareLoop {
 public:
  static Result<std::unique_ptr<BareLoop>> Create(const BareLoopInput& input) {
    FRUGAL_ASSIGN(File file, File::Open(input.options->model_path, input.options->direct, kSectorBytes));
    std::unique_ptr<BareLoop> loop(new BareLoop(input, std::move(file)));
    FRUGAL_TRY(loop->Allocate());
    return loop;
  }

  enum class Parts { kReads, kMemory, kBoth };
  Result<double> RunToken(std::span<const ReadRecord> reads, Parts parts) {
    reads_ = parts == Parts::kMemory ? std::span<const ReadRecord>() : reads;
    next_ = 0;
    const uint64_t start = NowNs();
    Pump(WaitMode::kPoll);
    if (parts != Parts::kReads) StreamMemory();
    while (!failure_ && (next_ < reads_.size() || reader_->num_pending() > 0)) Pump(WaitMode::kBlock);
    if (failure_) return MakeError(ErrorCode::kIo, "{}: bare loop: {}", file_.path(), DescribeFailure(*failure_));
    return static_cast<double>(NowNs() - start) / 1e6;
  }

 private:
  BareLoop(const BareLoopInput& input, File file) : input_(input), file_(std::move(file)) {}

  Status Allocate() {
    for (const ReadRecord& read : input_.recording->records()) largest_ = std::max<uint64_t>(largest_, RoundUp(read.size_bytes, 4096));
    const uint64_t ram = input_.options->ram_bytes;
    const uint64_t scratch_bytes = ram > 0 ? std::min(kMostScratchBytes, ram / 8) : kMostScratchBytes;
    num_slots_ = static_cast<uint32_t>(std::clamp<uint64_t>(scratch_bytes / std::max<uint64_t>(1, largest_), 2, input_.queue_depth));
    FRUGAL_ASSIGN(scratch_, AlignedBuffer::Allocate(num_slots_ * largest_));
    // A step that touches more than the budget holds is streamed from what fits, again and again.
    uint64_t room = input_.touched_bytes;
    const uint64_t taken = LeftFree(ram) + scratch_.size_bytes();
    if (ram > 0) room = std::min(room, ram > taken ? ram - taken : kTileBytes);
    FRUGAL_ASSIGN(memory_, AlignedBuffer::Allocate(std::max(kTileBytes, RoundDown(room, kTileBytes))));
    // Zero pages that were never written may be one and the same page.
    for (uint64_t at = 0; at < memory_.size_bytes(); at += 64) memory_.data()[at] = std::byte{1};
    FRUGAL_ASSIGN(pool_, ThreadPool::Create(input_.options->num_threads));
    ReaderOptions options;
    options.backend = input_.options->io;
    options.queue_depth = std::min(num_slots_, input_.queue_depth);
    const int fd = file_.fd();
    options.fds = {&fd, 1};
    FRUGAL_ASSIGN(OpenedReader opened, OpenReader(options));
    reader_ = std::make_unique<WholeReader>(std::move(opened.reader), num_slots_, 1);
    for (uint32_t slot = num_slots_; slot-- > 0;) free_.push_back(slot);
    return {};
  }

  void StreamMemory() {
    const uint64_t num_memory_tiles = memory_.size_bytes() / kTileBytes;
    const int num_tiles = static_cast<int>((input_.touched_bytes + kTileBytes - 1) / kTileBytes);
    pool_->Run(
        num_tiles,
        [&](int tile, int worker) {
          const uint64_t found = PlainRead(memory_.data() + static_cast<uint64_t>(tile) % num_memory_tiles * kTileBytes, kTileBytes);
          if (worker == 0) sink_ = found;
        },
        [&] { Pump(WaitMode::kPoll); });
  }

  void Pump(WaitMode mode) {
    while (next_ < reads_.size() && !free_.empty()) {
      const uint32_t slot = free_.back();
      const ReadRecord& read = reads_[next_];
      const iovec destination{scratch_.data() + slot * largest_, read.size_bytes};
      if (!reader_->TrySubmit({&file_, read.offset_bytes, {&destination, 1}, slot})) break;
      free_.pop_back();
      ++next_;
    }
    if (reader_->num_pending() == 0) return;
    std::array<WholeCompletion, 32> completions;
    const size_t count = reader_->Reap(completions, mode);
    for (const WholeCompletion& completion : std::span(completions).first(count)) {
      if (completion.failed) failure_ = completion.failure;
      free_.push_back(static_cast<uint32_t>(completion.tag));
    }
  }

  const BareLoopInput& input_;
  File file_;
  AlignedBuffer scratch_;  // [num_slots, largest]
  AlignedBuffer memory_;
  uint64_t largest_ = 0;
  uint32_t num_slots_ = 0;
  std::vector<uint32_t> free_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<WholeReader> reader_;  // drains before what it reads into goes
  std::span<const ReadRecord> reads_;
  size_t next_ = 0;
  std::optional<ReadFailure> failure_;
  volatile uint64_t sink_ = 0;
};

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

Status RunBareLoop(const BareLoopInput& input, BareLoopTimes* times) {
  FRUGAL_ASSIGN(const std::unique_ptr<BareLoop> loop, BareLoop::Create(input));
  const std::span<const ReadRecord> all = input.recording->records();
  size_t begin = 0;
  for (uint32_t group = 0; group < input.recording->num_groups(); ++group) {
    size_t end = begin;
    while (end < all.size() && all[end].group == group) ++end;
    const std::span<const ReadRecord> reads = all.subspan(begin, end - begin);
    begin = end;
    double together = 0;
    if (input.touched_bytes > 0) {
      FRUGAL_ASSIGN(together, loop->RunToken(reads, BareLoop::Parts::kBoth));
    }
    FRUGAL_ASSIGN(const double reads_alone, loop->RunToken(reads, BareLoop::Parts::kReads));
    if (input.touched_bytes == 0) together = reads_alone;
    FRUGAL_ASSIGN(const double memory_alone, loop->RunToken(reads, BareLoop::Parts::kMemory));
    times->together_ms.push_back(together);
    times->reads_ms.push_back(reads_alone);
    times->memory_ms.push_back(memory_alone);
    times->touched_bytes += input.touched_bytes;
    times->num_reads += reads.size();
    for (const ReadRecord& read : reads) times->read_bytes += read.size_bytes;
  }
  return {};
}

}  // namespace frugal
