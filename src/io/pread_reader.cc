#include "src/io/pread_reader.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <utility>
#include <vector>

#include "src/base/bytes.h"

namespace frugal {
namespace {

constexpr uint64_t kForever = UINT64_MAX;
constexpr size_t kStackBytes = 128 * kKiB;  // a worker calls preadv and nothing deeper

// A queue in a fixed ring. Not synchronised.
template <typename T>
class FixedQueue {
 public:
  explicit FixedQueue(size_t capacity) : items_(capacity) {}
  bool empty() const { return size_ == 0; }
  void Push(const T& item) {
    CHECK(size_ < items_.size());
    items_[(head_ + size_++) % items_.size()] = item;
  }
  T Pop() {
    CHECK(size_ > 0);
    const T item = items_[head_];
    head_ = (head_ + 1) % items_.size();
    --size_;
    return item;
  }

 private:
  std::vector<T> items_;
  size_t head_ = 0;
  size_t size_ = 0;
};

class PreadReader final : public ExtentReader {
 public:
  explicit PreadReader(uint32_t queue_depth)
      : queue_depth_(queue_depth), waiting_(queue_depth), done_(queue_depth) {}
  ~PreadReader() override;
  PreadReader(const PreadReader&) = delete;
  PreadReader& operator=(const PreadReader&) = delete;

  // Returns 0 or the errno of the first thread that could not be started.
  int Start(uint32_t num_threads);
  size_t num_threads() const { return threads_.size(); }

  size_t Submit(std::span<const ReadRequest> requests) override;
  size_t Reap(std::span<ReadCompletion> completions, WaitMode mode) override {
    return Collect(completions, mode == WaitMode::kPoll ? 0 : kForever);
  }
  size_t ReapFor(std::span<ReadCompletion> completions, uint64_t timeout_ns) override {
    return Collect(completions, timeout_ns);
  }
  size_t num_in_flight() const override { return num_in_flight_; }
  size_t queue_depth() const override { return queue_depth_; }
  std::string_view name() const override { return "pread"; }

 private:
  static void* ThreadMain(void* self);
  void WorkerLoop();
  size_t Collect(std::span<ReadCompletion> completions, uint64_t timeout_ns);

  const size_t queue_depth_;
  size_t num_in_flight_ = 0;  // the caller's: submitted and not yet returned
  std::vector<pthread_t> threads_;
  std::mutex mutex_;
  std::condition_variable work_arrived_;
  std::condition_variable read_done_;
  FixedQueue<ReadRequest> waiting_;  // guarded by mutex_, as all below
  FixedQueue<ReadCompletion> done_;
  bool stop_ = false;
};

int PreadReader::Start(uint32_t num_threads) {
  threads_.reserve(num_threads);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  const long minimum = sysconf(_SC_THREAD_STACK_MIN);  // grows with the processor's vector state
  pthread_attr_setstacksize(&attributes,
                            std::max<size_t>(kStackBytes, minimum > 0 ? RoundUp(minimum, 4096) : 0));
  // Signals belong to the threads of the program; a worker that took one would see EINTR.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = 0;
  for (uint32_t i = 0; i < num_threads && error == 0; ++i) {
    pthread_t thread;
    error = pthread_create(&thread, &attributes, &ThreadMain, this);
    if (error == 0) threads_.push_back(thread);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return error;
}

PreadReader::~PreadReader() {
  ReadCompletion dropped[32];
  while (num_in_flight_ > 0) Collect(dropped, kForever);
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_arrived_.notify_all();
  for (const pthread_t thread : threads_) pthread_join(thread, nullptr);
}

void* PreadReader::ThreadMain(void* self) {
  static_cast<PreadReader*>(self)->WorkerLoop();
  return nullptr;
}

void PreadReader::WorkerLoop() {
  std::unique_lock lock(mutex_);
  while (true) {
    work_arrived_.wait(lock, [this] { return stop_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    const ReadRequest request = waiting_.Pop();
    lock.unlock();
    const ssize_t result =
        preadv(request.fd, request.destinations.data(), static_cast<int>(request.destinations.size()),
               static_cast<off_t>(request.offset_bytes));
    const int64_t outcome = result >= 0 ? result : -errno;
    lock.lock();
    done_.Push({request.tag, outcome});
    read_done_.notify_one();
  }
}

size_t PreadReader::Submit(std::span<const ReadRequest> requests) {
  const size_t count = std::min(requests.size(), queue_depth_ - num_in_flight_);
  if (count == 0) return 0;
  {
    const std::lock_guard lock(mutex_);
    for (const ReadRequest& request : requests.first(count)) {
      CHECK(!request.destinations.empty() && request.destinations.size() <= kMaxSegments);
      waiting_.Push(request);
    }
  }
  num_in_flight_ += count;
  if (count == 1) {
    work_arrived_.notify_one();
  } else {
    work_arrived_.notify_all();
  }
  return count;
}

size_t PreadReader::Collect(std::span<ReadCompletion> completions, uint64_t timeout_ns) {
  if (completions.empty() || num_in_flight_ == 0) return 0;
  std::unique_lock lock(mutex_);
  const auto something_is_done = [this] { return !done_.empty(); };
  if (timeout_ns == kForever) {
    read_done_.wait(lock, something_is_done);
  } else if (timeout_ns > 0) {
    constexpr uint64_t kLongestNs = 3'600'000'000'000;
    read_done_.wait_for(lock, std::chrono::nanoseconds(std::min(timeout_ns, kLongestNs)), something_is_done);
  }
  size_t count = 0;
  while (count < completions.size() && !done_.empty()) completions[count++] = done_.Pop();
  num_in_flight_ -= count;
  return count;
}

}  // namespace

Result<OpenedReader> OpenPreadReader(const ReaderOptions& options) {
  OpenedReader opened;
  auto reader = std::make_unique<PreadReader>(options.queue_depth);
  const int error = reader->Start(options.num_pread_threads);
  const std::string reason = std::generic_category().message(error);
  if (reader->num_threads() == 0) {
    return MakeError(ErrorCode::kFailed, "cannot start a thread for reading: {}", reason);
  }
  if (error != 0) {
    opened.note =
        fmt::format("pread: {} of {} threads ({})", reader->num_threads(), options.num_pread_threads, reason);
  }
  opened.reader = std::move(reader);
  return opened;
}

uint64_t PreadReaderMemoryBytes(const ReaderOptions& options) {
  constexpr uint64_t kThreadBytes = kStackBytes + 32 * kKiB;  // with kernel stack and task
  // A direct read in flight has bios with the list of its pages in the kernel: one for each thread.
  constexpr uint64_t kRequestBytes = 4 * kKiB;
  return options.num_pread_threads * (kThreadBytes + kRequestBytes) +
         options.queue_depth * (sizeof(ReadRequest) + sizeof(ReadCompletion));
}

}  // namespace frugal
