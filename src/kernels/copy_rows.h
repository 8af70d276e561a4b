// Copies of rows that stay in the cache while many tokens pass.
#pragma once

#include <algorithm>
#include <cstring>

#include "src/kernels/row_streams.h"

namespace frugal {

// How many rows ahead memory is asked for: a piece of a row is too short for the prefetchers.
constexpr size_t kCopyAhead = 12;

// Asks for bytes [offset_bytes, offset_bytes + size_bytes) of the row that is copied kCopyAhead rows later than row i.
inline void AskForLaterRow(const RowSet& rows, size_t i, size_t num_rows, size_t offset_bytes, size_t size_bytes) {
  const std::byte* const later = rows.row(std::min(i + kCopyAhead, num_rows - 1)) + offset_bytes;
  for (size_t at = 0; at < size_bytes; at += kLineBytes) AskForGathered(later + at);
}

// copies[i * size_bytes + j] = byte offset_bytes + j of row i, for i < num_rows and j < size_bytes.
inline void CopyRows(const RowSet& rows, size_t offset_bytes, size_t num_rows, size_t size_bytes, std::byte* copies) {
  for (size_t i = 0; i < num_rows; ++i, copies += size_bytes) {
    const std::byte* const from = rows.row(i) + offset_bytes;
    const std::byte* const later = rows.row(std::min(i + kCopyAhead, num_rows - 1)) + offset_bytes;
    size_t at = 0;
    for (; at + kLineBytes <= size_bytes; at += kLineBytes) {
      AskForGathered(later + at);
      std::memcpy(copies + at, from + at, kLineBytes);
    }
    std::memcpy(copies + at, from + at, size_bytes - at);
  }
}

}  // namespace frugal
