// Matrices of float32 as NumPy's .npy files (format 1.0: NEP 1), for comparisons with other programs. Written
// under a temporary name and renamed; an existing file is replaced. One thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "src/base/result.h"
#include "src/format/output_file.h"

namespace frugal {

// data holds the product of shape, row-major. kIo names the file.
Status WriteNpyFloat32(const std::string& path, std::span<const float> data, std::span<const uint64_t> shape);

// Row by row, where their number is known only at the end: // [num_rows, columns]
class NpyWriter {
 public:
  static Result<NpyWriter> Open(const std::string& path, uint64_t columns);
  // row holds `columns` values.
  Status AppendRow(std::span<const float> row);
  // Writes the number of rows into the header, syncs, renames. Without it no file appears.
  Status Finish();
  uint64_t num_rows() const { return num_rows_; }

 private:
  NpyWriter() = default;
  std::unique_ptr<OutputFile> file_;
  uint64_t columns_ = 0;
  uint64_t num_rows_ = 0;
};

}  // namespace frugal
