// Rows of equal size that a training run keeps: hidden states, inputs, activity bitmaps. In memory, or, where
// the budget does not allow that, in a temporary file that has no name (it goes with the process, however
// that ends). One thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "src/base/aligned_buffer.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace frugal {

enum class Placement { kMemory, kSpilled };

class RowStore {
 public:
  RowStore() = default;
  // kSpilled: the file lies beside `near_path`, its space reserved (kIo names the file and the bytes
  // otherwise).
  static Result<RowStore> Create(uint64_t num_rows, uint64_t row_bytes, Placement placement,
                                 const std::string& near_path);

  uint64_t num_rows() const { return num_rows_; }
  uint64_t row_bytes() const { return row_bytes_; }

  // Whole rows from `first_row` on.
  Status Write(uint64_t first_row, std::span<const std::byte> rows);
  Status Read(uint64_t first_row, std::span<std::byte> rows) const;

 private:
  uint64_t num_rows_ = 0;
  uint64_t row_bytes_ = 0;
  AlignedBuffer memory_;
  UniqueFd fd_;
  std::string name_;  // for messages
};

}  // namespace frugal
