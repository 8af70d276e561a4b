// Keeps a list of what is read through it, so that the same extents can be read again by a benchmark. Records nothing until Start, nothing
// when its list is full; allocates only when made. Engine thread only.
#pragma once

#include <memory>
#include <vector>

#include "src/io/extent_reader.h"

namespace frugal {

struct ReadRecord {
  uint64_t offset_bytes = 0;
  uint32_t size_bytes = 0;
  uint32_t group = 0;  // counts from 0; the recorder's user says when the next begins (a token)
};

// Owned by who asks for the recording; outlives the reader.
class ReadRecording {
 public:
  explicit ReadRecording(size_t max_records) { records_.reserve(max_records); }

  void Start() {
    records_.clear();
    num_groups_ = 0;
    group_begin_ = 0;
    full_ = false;
    active_ = true;
  }
  // Everything up to here belongs to one group. A group that did not fit as a whole is left out, and recording ends.
  void EndGroup();
  void EndRecording() { active_ = false; }
  void Add(const ReadRequest& request);

  std::span<const ReadRecord> records() const { return records_; }
  uint32_t num_groups() const { return num_groups_; }  // complete ones

 private:
  std::vector<ReadRecord> records_;
  uint32_t num_groups_ = 0;
  size_t group_begin_ = 0;
  bool active_ = false;
  bool full_ = false;
};

std::unique_ptr<ExtentReader> MakeRecordingReader(std::unique_ptr<ExtentReader> inner, ReadRecording& recording);

}  // namespace frugal
