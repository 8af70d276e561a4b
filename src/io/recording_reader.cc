#include "src/io/recording_reader.h"

#include <utility>

namespace frugal {

void ReadRecording::Add(const ReadRequest& request) {
  if (!active_ || full_) return;
  if (records_.size() == records_.capacity()) {
    full_ = true;
    return;
  }
  uint64_t size_bytes = 0;
  for (const iovec& segment : request.destinations) size_bytes += segment.iov_len;
  records_.push_back({request.offset_bytes, static_cast<uint32_t>(size_bytes), num_groups_});
}

void ReadRecording::EndGroup() {
  if (!active_) return;
  if (full_) {
    records_.resize(group_begin_);
    active_ = false;
    return;
  }
  group_begin_ = records_.size();
  ++num_groups_;
}

namespace {

class RecordingReader : public ExtentReader {
 public:
  RecordingReader(std::unique_ptr<ExtentReader> inner, ReadRecording& recording)
      : inner_(std::move(inner)), recording_(recording) {}

  size_t Submit(std::span<const ReadRequest> requests) override {
    const size_t taken = inner_->Submit(requests);
    for (const ReadRequest& request : requests.first(taken)) recording_.Add(request);
    return taken;
  }
  size_t Reap(std::span<ReadCompletion> completions, WaitMode mode) override { return inner_->Reap(completions, mode); }
  size_t ReapFor(std::span<ReadCompletion> completions, uint64_t timeout_ns) override {
    return inner_->ReapFor(completions, timeout_ns);
  }
  size_t num_in_flight() const override { return inner_->num_in_flight(); }
  size_t queue_depth() const override { return inner_->queue_depth(); }
  std::string_view name() const override { return inner_->name(); }

 private:
  std::unique_ptr<ExtentReader> inner_;
  ReadRecording& recording_;
};

}  // namespace

std::unique_ptr<ExtentReader> MakeRecordingReader(std::unique_ptr<ExtentReader> inner, ReadRecording& recording) {
  return std::make_unique<RecordingReader>(std::move(inner), recording);
}

}  // namespace frugal
