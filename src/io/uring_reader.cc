#include "src/io/uring_reader.h"

#include <liburing.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "src/base/bytes.h"
#include "src/base/clock.h"

namespace frugal {
namespace {

constexpr uint64_t kForever = UINT64_MAX;
constexpr uint64_t kMaxFixedBytes = kGiB;     // the kernel's limit for one registered buffer
constexpr size_t kMaxFixedBuffers = 1 << 14;  // and for their number (IORING_MAX_REG_BUFFERS)
constexpr uint64_t kMaxSingleBytes = kGiB;    // an SQE's length has 32 bits; the rest becomes a short read
constexpr unsigned kMaxKernelWorkers = 8;     // threads the kernel may start for reads that would block
constexpr int kMaxRefusals = 1000;  // EAGAIN/EBUSY of io_uring_enter in a row, before it counts as an error
constexpr unsigned kReapBatch = 32;

class UringReader final : public ExtentReader {
 public:
  explicit UringReader(const ReaderOptions& options);
  ~UringReader() override;
  UringReader(const UringReader&) = delete;
  UringReader& operator=(const UringReader&) = delete;

  // 0 or -errno. `note` gets the refused registrations.
  int Create(std::string* note);

  size_t Submit(std::span<const ReadRequest> requests) override;
  size_t Reap(std::span<ReadCompletion> completions, WaitMode mode) override {
    return Collect(completions, mode == WaitMode::kPoll ? 0 : kForever);
  }
  size_t ReapFor(std::span<ReadCompletion> completions, uint64_t timeout_ns) override {
    return Collect(completions, timeout_ns);
  }
  size_t num_in_flight() const override { return num_in_flight_; }
  size_t queue_depth() const override { return slots_.size(); }
  std::string_view name() const override { return "io_uring"; }

 private:
  struct Slot {
    uint64_t tag = 0;
    uint32_t generation = 0;  // a completion that names an older one is of a dead request
    bool in_flight = false;
  };

  int CreateRing(unsigned flags);
  int ProveByNop();
  void Register(std::string* note);
  void CloseRing();

  void Prepare(const ReadRequest& request);
  void Flush();
  void FailUnsubmitted(int error);
  void Release(uint32_t index);
  int FixedFile(int fd) const;
  int FixedBuffer(const iovec& segment) const;

  size_t Collect(std::span<ReadCompletion> completions, uint64_t timeout_ns);
  size_t TakeReady(std::span<ReadCompletion> completions);
  void Wait(uint64_t timeout_ns);

  io_uring ring_{};
  bool ring_is_open_ = false;
  bool issuer_only_ = false;  // the ring belongs to issuer_
  pid_t issuer_ = 0;
  std::vector<int> wanted_fds_;
  std::vector<iovec> wanted_buffers_;       // pieces of at most kMaxFixedBytes, by address
  std::vector<std::pair<int, int>> files_;  // registered: (fd, index), by fd
  bool buffers_are_registered_ = false;     // wanted_buffers_[i] has index i
  std::vector<Slot> slots_;                 // [queue_depth]
  std::vector<uint32_t> free_slots_;        // [queue_depth]
  std::vector<ReadCompletion> failed_;      // [queue_depth], requests that the kernel refused to take
  size_t num_failed_ = 0;
  size_t num_in_flight_ = 0;  // failed_ included, until they are returned
  int num_refusals_ = 0;
};

UringReader::UringReader(const ReaderOptions& options)
    : wanted_fds_(options.fds.begin(), options.fds.end()),
      slots_(options.queue_depth),
      failed_(options.queue_depth) {
  free_slots_.reserve(options.queue_depth);
  for (uint32_t i = options.queue_depth; i > 0; --i) free_slots_.push_back(i - 1);
  for (const iovec& buffer : options.buffers) {
    std::byte* base = static_cast<std::byte*>(buffer.iov_base);
    for (size_t done = 0; done < buffer.iov_len; done += kMaxFixedBytes) {
      wanted_buffers_.push_back({base + done, std::min<size_t>(buffer.iov_len - done, kMaxFixedBytes)});
    }
  }
  std::sort(wanted_buffers_.begin(), wanted_buffers_.end(),
            [](const iovec& a, const iovec& b) { return a.iov_base < b.iov_base; });
  files_.reserve(wanted_fds_.size());
}

UringReader::~UringReader() {
  ReadCompletion dropped[kReapBatch];
  while (num_in_flight_ > 0) Collect(dropped, kForever);
  CloseRing();
}

void UringReader::CloseRing() {
  if (ring_is_open_) io_uring_queue_exit(&ring_);
  ring_is_open_ = false;
}

int UringReader::Create(std::string* note) {
  CloseRing();
  issuer_ = gettid();
  issuer_only_ = true;
  int error = CreateRing(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG);
  if (error == -EINVAL) {  // kernels before 6.1 do not know these flags
    issuer_only_ = false;
    error = CreateRing(0);
  }
  if (error != 0) return error;
  unsigned workers[2] = {kMaxKernelWorkers, kMaxKernelWorkers};
  io_uring_register_iowq_max_workers(&ring_,
                                     workers);  // refused by old kernels: then they start more, nothing else
  Register(note);
  return 0;
}

int UringReader::CreateRing(unsigned flags) {
  io_uring_params params{};
  params.flags = flags | IORING_SETUP_CQSIZE;
  // in flight <= queue_depth < CQ entries: the completion queue cannot overflow.
  params.cq_entries = static_cast<unsigned>(2 * slots_.size());
  int error = io_uring_queue_init_params(static_cast<unsigned>(slots_.size()), &ring_, &params);
  if (error != 0) return error;
  ring_is_open_ = true;
  // Waiting with a deadline would need SQEs of its own without EXT_ARG (Linux 5.11).
  error = (params.features & IORING_FEAT_EXT_ARG) != 0 ? ProveByNop() : -ENOSYS;
  if (error != 0) CloseRing();
  return error;
}

int UringReader::ProveByNop() {
  io_uring_prep_nop(io_uring_get_sqe(&ring_));
  int result = io_uring_submit_and_wait(&ring_, 1);
  for (int i = 0; (result == -EINTR || result == -EAGAIN) && i < kMaxRefusals; ++i) {
    result = io_uring_submit_and_wait(&ring_, 1);
  }
  if (result < 0) return result;
  io_uring_cqe* cqe = nullptr;
  result = io_uring_peek_cqe(&ring_, &cqe);
  if (result < 0) return result;
  result = cqe->res;
  io_uring_cqe_seen(&ring_, cqe);
  return result;
}

void UringReader::Register(std::string* note) {
  files_.clear();
  buffers_are_registered_ = false;
  std::string refused;
  if (!wanted_fds_.empty()) {
    const int error =
        io_uring_register_files(&ring_, wanted_fds_.data(), static_cast<unsigned>(wanted_fds_.size()));
    if (error == 0) {
      for (size_t i = 0; i < wanted_fds_.size(); ++i)
        files_.emplace_back(wanted_fds_[i], static_cast<int>(i));
      std::sort(files_.begin(), files_.end());
    } else {
      refused = fmt::format("files not registered ({})", ErrnoText(-error));
    }
  }
  if (!wanted_buffers_.empty()) {
    const unsigned count = static_cast<unsigned>(wanted_buffers_.size());
    const int error = wanted_buffers_.size() > kMaxFixedBuffers
                          ? -E2BIG
                          : io_uring_register_buffers(&ring_, wanted_buffers_.data(), count);
    buffers_are_registered_ = error == 0;
    if (error != 0) {
      refused += fmt::format("{}buffers not registered ({})", refused.empty() ? "" : ", ", ErrnoText(-error));
    }
  }
  if (note != nullptr && !refused.empty()) *note = "io_uring: " + refused;
}

int UringReader::FixedFile(int fd) const {
  const auto found = std::lower_bound(files_.begin(), files_.end(), std::pair(fd, 0));
  return found != files_.end() && found->first == fd ? found->second : -1;
}

int UringReader::FixedBuffer(const iovec& segment) const {
  if (!buffers_are_registered_) return -1;
  const auto after =
      std::upper_bound(wanted_buffers_.begin(), wanted_buffers_.end(), segment.iov_base,
                       [](const void* base, const iovec& buffer) { return base < buffer.iov_base; });
  if (after == wanted_buffers_.begin()) return -1;
  const iovec& buffer = *(after - 1);
  const size_t offset = static_cast<size_t>(static_cast<const std::byte*>(segment.iov_base) -
                                            static_cast<const std::byte*>(buffer.iov_base));
  if (offset > buffer.iov_len || segment.iov_len > buffer.iov_len - offset) return -1;
  return static_cast<int>(after - 1 - wanted_buffers_.begin());
}

void UringReader::Release(uint32_t index) {
  slots_[index].in_flight = false;
  ++slots_[index].generation;
  free_slots_.push_back(index);
}

void UringReader::Prepare(const ReadRequest& request) {
  CHECK(!request.destinations.empty() && request.destinations.size() <= kMaxSegments);
  const uint32_t index = free_slots_.back();
  free_slots_.pop_back();
  Slot& slot = slots_[index];
  slot.tag = request.tag;
  slot.in_flight = true;
  ++num_in_flight_;

  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  CHECK(sqe != nullptr);  // the queue has at least queue_depth entries
  const int fixed_file = FixedFile(request.fd);
  const int fd = fixed_file >= 0 ? fixed_file : request.fd;
  const iovec& first = request.destinations[0];
  if (request.destinations.size() > 1) {
    io_uring_prep_readv(sqe, fd, request.destinations.data(),
                        static_cast<unsigned>(request.destinations.size()), request.offset_bytes);
  } else {
    const unsigned length = static_cast<unsigned>(std::min<uint64_t>(first.iov_len, kMaxSingleBytes));
    if (const int buffer = FixedBuffer(first); buffer >= 0) {
      io_uring_prep_read_fixed(sqe, fd, first.iov_base, length, request.offset_bytes, buffer);
    } else {
      io_uring_prep_read(sqe, fd, first.iov_base, length, request.offset_bytes);
    }
  }
  if (fixed_file >= 0) sqe->flags |= IOSQE_FIXED_FILE;
  sqe->user_data = (uint64_t{slot.generation} << 32) | index;
}

size_t UringReader::Submit(std::span<const ReadRequest> requests) {
  const size_t count = std::min(requests.size(), slots_.size() - num_in_flight_);
  if (count == 0) return 0;
  if (!ring_is_open_ || (issuer_only_ && num_in_flight_ == 0 && issuer_ != gettid())) {
    if (const int error = Create(nullptr); error != 0) {
      for (const ReadRequest& request : requests.first(count)) failed_[num_failed_++] = {request.tag, error};
      num_in_flight_ += count;
      return count;
    }
  }
  for (const ReadRequest& request : requests.first(count)) Prepare(request);
  Flush();
  return count;
}

void UringReader::Flush() {
  const int result = io_uring_submit(&ring_);
  if (result > 0) {
    num_refusals_ = 0;
    return;
  }
  const bool may_pass = result == 0 || result == -EINTR || result == -EAGAIN || result == -EBUSY;
  if (may_pass && ++num_refusals_ < kMaxRefusals)
    return;  // what is left in the queue goes with the next call
  FailUnsubmitted(result == 0 ? -EAGAIN : result);
}

// Takes back the entries that the kernel has not consumed, and completes them with the error. Without SQPOLL
// the kernel looks at the tail only inside io_uring_enter, so it may be moved back here.
void UringReader::FailUnsubmitted(int error) {
  num_refusals_ = 0;
  const unsigned count = io_uring_sq_ready(&ring_);
  const unsigned first = ring_.sq.sqe_tail - count;
  for (unsigned i = 0; i < count; ++i) {
    const io_uring_sqe& sqe = ring_.sq.sqes[(first + i) & ring_.sq.ring_mask];
    const uint32_t index = static_cast<uint32_t>(sqe.user_data);
    failed_[num_failed_++] = {slots_[index].tag, error};
    Release(index);
  }
  ring_.sq.sqe_tail = first;
  ring_.sq.sqe_head = first;
  io_uring_smp_store_release(ring_.sq.ktail, first);
}

size_t UringReader::Collect(std::span<ReadCompletion> completions, uint64_t timeout_ns) {
  if (completions.empty() || num_in_flight_ == 0) return 0;
  if (ring_is_open_ && io_uring_sq_ready(&ring_) > 0) Flush();
  size_t count = TakeReady(completions);
  if (count > 0 || timeout_ns == 0) return count;
  const uint64_t start_ns = NowNs();
  while (true) {
    const uint64_t waited_ns = NowNs() - start_ns;
    if (waited_ns >= timeout_ns) return 0;
    Wait(timeout_ns == kForever ? kForever : timeout_ns - waited_ns);
    count = TakeReady(completions);
    if (count > 0 || num_in_flight_ == 0) return count;
  }
}

size_t UringReader::TakeReady(std::span<ReadCompletion> completions) {
  size_t count = 0;
  while (count < completions.size() && num_failed_ > 0) {
    completions[count++] = failed_[--num_failed_];
    --num_in_flight_;
  }
  io_uring_cqe* cqes[kReapBatch];
  while (ring_is_open_ && count < completions.size() && num_in_flight_ > num_failed_) {
    const unsigned room = static_cast<unsigned>(std::min<size_t>(completions.size() - count, kReapBatch));
    const unsigned num_cqes = io_uring_peek_batch_cqe(&ring_, cqes, room);
    if (num_cqes == 0) break;
    for (unsigned i = 0; i < num_cqes; ++i) {
      const uint32_t index = static_cast<uint32_t>(cqes[i]->user_data);
      const uint32_t generation = static_cast<uint32_t>(cqes[i]->user_data >> 32);
      if (index >= slots_.size() || !slots_[index].in_flight || slots_[index].generation != generation)
        continue;
      completions[count++] = {slots_[index].tag, cqes[i]->res};
      Release(index);
      --num_in_flight_;
    }
    io_uring_cq_advance(&ring_, num_cqes);
  }
  return count;
}

void UringReader::Wait(uint64_t timeout_ns) {
  int result = 0;
  if (io_uring_sq_ready(&ring_) == num_in_flight_) {
    // The kernel has taken nothing yet (it lacks memory for requests), so there is nothing to wait for but
    // time.
    const timespec pause{0, 1'000'000};
    nanosleep(&pause, nullptr);
    Flush();
    return;
  }
  io_uring_cqe* cqe = nullptr;
  if (timeout_ns == kForever) {
    result = io_uring_wait_cqe(&ring_, &cqe);
  } else {
    __kernel_timespec timeout{static_cast<int64_t>(timeout_ns / 1'000'000'000),
                              static_cast<int64_t>(timeout_ns % 1'000'000'000)};
    result = io_uring_wait_cqe_timeout(&ring_, &cqe, &timeout);
  }
  // Anything else means a second thread (EEXIST): buffers of the kernel could never be had back.
  CHECK(result == 0 || result == -EINTR || result == -EAGAIN || result == -EBUSY || result == -ETIME);
  if (io_uring_sq_ready(&ring_) > 0) Flush();
}

}  // namespace

Result<OpenedReader> OpenUringReader(const ReaderOptions& options) {
  OpenedReader opened;
  auto reader = std::make_unique<UringReader>(options);
  if (const int error = reader->Create(&opened.note); error != 0) {
    return MakeError(ErrorCode::kIo, "io_uring is not available ({})", ErrnoText(-error));
  }
  opened.reader = std::move(reader);
  return opened;
}

uint64_t UringReaderMemoryBytes(const ReaderOptions& options) {
  const uint64_t depth = std::bit_ceil(uint64_t{options.queue_depth});
  // Ring: 64 B an SQE and 4 B of its index, 16 B a CQE and two of them for each SQE, in whole pages, and the
  // ring's own structures. A read in flight: request, its copied iovecs, bios and their page lists.
  constexpr uint64_t kContextBytes = 64 * kKiB;
  constexpr uint64_t kRequestBytes = 4 * kKiB;
  constexpr uint64_t kWorkerBytes = 32 * kKiB;  // kernel stack and task of one worker thread
  const uint64_t rings = RoundUp(depth * 64, 4096) + RoundUp(depth * (4 + 2 * 16) + 512, 4096);
  const uint64_t tables = depth * 64 + options.fds.size() * 16;
  uint64_t registered = 0;  // 16 B a page in the kernel's table
  for (const iovec& buffer : options.buffers) registered += RoundUp(buffer.iov_len, 4096) / 4096 * 16 + 256;
  return kContextBytes + rings + tables + registered + depth * kRequestBytes +
         kMaxKernelWorkers * kWorkerBytes;
}

}  // namespace frugal
