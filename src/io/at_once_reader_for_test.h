// A device that takes no time: what is submitted has come when the submission ends.
#pragma once

#include <algorithm>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "src/io/extent_reader.h"

namespace frugal {

class AtOnceReader final : public ExtentReader {
 public:
  explicit AtOnceReader(std::unique_ptr<ExtentReader> inner) : inner_(std::move(inner)) {}
  size_t Submit(std::span<const ReadRequest> requests) override {
    const size_t taken = inner_->Submit(requests);
    while (inner_->num_in_flight() > 0) {
      ReadCompletion completion;
      if (inner_->Reap({&completion, 1}, WaitMode::kBlock) == 1) done_.push_back(completion);
    }
    return taken;
  }
  size_t Reap(std::span<ReadCompletion> completions, WaitMode) override {
    const size_t count = std::min(completions.size(), done_.size());
    std::copy_n(done_.begin(), count, completions.begin());
    done_.erase(done_.begin(), done_.begin() + static_cast<std::ptrdiff_t>(count));
    return count;
  }
  size_t num_in_flight() const override { return done_.size(); }
  size_t queue_depth() const override { return inner_->queue_depth(); }
  std::string_view name() const override { return inner_->name(); }

 private:
  const std::unique_ptr<ExtentReader> inner_;
  std::vector<ReadCompletion> done_;
};

}  // namespace frugal
