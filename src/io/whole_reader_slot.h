// Private to whole_reader*.cc: one pending read of a WholeReader.
#pragma once

#include <cstdint>

#include "src/base/bytes.h"
#include "src/io/whole_reader.h"

namespace frugal {

// ReadNow has slots of its own, so that it works while every other one is pending.
inline constexpr uint32_t kNowParts = 8;
inline constexpr uint64_t kNowPartBytes = kMiB;
inline constexpr uint64_t kBouncePieceBytes = 128 * kKiB;  // one for each part: 1 MiB in all

struct WholeReader::Slot {
  enum class State : uint8_t {
    kFree,
    kQueued,
    kInFlight,
    kRetryLater,  // waits for ready_ns
    kFinished,    // all bytes are there, or `failed`
  };

  State state = State::kFree;
  bool failed = false;
  bool abandoned =
      false;  // reported as timed out while in flight; free when its completion has come and it is reported
  bool reported = false;
  const File* file = nullptr;
  uint64_t tag = 0;
  uint64_t offset_bytes = 0;   // of the first byte not read yet, rounded down to the alignment
  uint64_t got_bytes = 0;      // before that
  uint64_t want_bytes = 0;     // what makes it whole
  uint32_t first_segment = 0;  // of those that are left
  uint32_t num_segments = 0;   // from the first one on
  uint32_t generation = 0;     // a completion of an older one is ignored
  int num_retries = 0;         // at this offset
  int num_unproductive = 0;    // in a row
  uint64_t start_ns = 0;       // first submitted to the device; 0: not yet
  uint64_t queued_ns = 0;
  uint64_t ready_ns = 0;
  ReadFailure failure;
};

}  // namespace frugal
