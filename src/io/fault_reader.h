// An ExtentReader that makes the faults which real devices make seldom: errors, short reads, interruptions,
// early ends, flipped bits, and completions that come late and in another order. For tests, and for runs
// under hostile settings. Everything random comes from one seed and from the order of calls.
//
// It never loses a completion and never blocks without need: kBlock gives back a held completion when nothing
// else comes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/base/random.h"
#include "src/io/extent_reader.h"

namespace frugal {

struct FaultOptions {
  static constexpr uint64_t kAlways = UINT64_MAX;

  uint64_t seed = 1;

  // The read with this number (0-based, in order of submission) fails, and so does every read that covers its
  // offset in the same file from then on, `fail_times` times in all.
  std::optional<uint64_t> fail_read;
  uint64_t fail_times = kAlways;
  int fail_error = 5;  // EIO

  // Probabilities for each read, in [0, 1].
  double short_probability = 0;  // cut at a random multiple of short_multiple_bytes, at least one of them
  size_t short_multiple_bytes = 512;
  double eof_probability = 0;  // 0 bytes
  double eintr_probability = 0;
  double eagain_probability = 0;

  // A completion is held for 0..max_delay_reaps calls of Reap, and those that are due leave in random order.
  uint32_t max_delay_reaps = 0;

  // This bit of this byte of every file read through this reader (or only of `flip_fd`) is inverted whenever
  // it is read.
  std::optional<uint64_t> flip_offset_bytes;
  uint64_t flip_every_bytes =
      0;                  // and of every byte that lies a multiple of this behind it; 0: of that one only
  unsigned flip_bit = 0;  // 0..7
  int flip_fd = -1;       // -1: any
};

class FaultReader final : public ExtentReader {
 public:
  FaultReader(std::unique_ptr<ExtentReader> inner, const FaultOptions& options);
  ~FaultReader() override;

  size_t Submit(std::span<const ReadRequest> requests) override;
  size_t Reap(std::span<ReadCompletion> completions, WaitMode mode) override;
  size_t num_in_flight() const override { return slots_.size() - free_slots_.size(); }
  size_t queue_depth() const override { return slots_.size(); }
  std::string_view name() const override { return name_; }

  uint64_t num_reads_seen() const { return num_reads_seen_; }
  uint64_t num_faults() const { return num_faults_; }  // errors, cuts, ends and flips made so far

 private:
  struct Slot {
    ReadRequest request;
    int64_t result = 0;
    uint32_t reaps_left = 0;
  };

  std::optional<int64_t> DecideFailure(const ReadRequest& request, uint64_t number);
  void Hold(uint32_t index, int64_t result);
  void Collect(WaitMode mode);
  void Cut(const ReadRequest& request, int64_t& result);
  void Flip(const ReadRequest& request, int64_t result);
  void ReleaseAt(size_t held, ReadCompletion& completion);

  std::unique_ptr<ExtentReader> inner_;
  const FaultOptions options_;
  const std::string name_;
  Random random_;
  std::vector<Slot> slots_;                // [queue_depth]
  std::vector<uint32_t> free_slots_;       // [queue_depth]
  std::vector<uint32_t> held_;             // [queue_depth], finished, not yet returned
  std::vector<ReadCompletion> completed_;  // [queue_depth], scratch
  uint64_t num_reads_seen_ = 0;
  uint64_t num_faults_ = 0;
  uint64_t fail_times_left_ = 0;
  std::optional<ReadRequest> failing_;  // the read that fail_read met
};

}  // namespace frugal
