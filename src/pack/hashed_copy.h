// Copies a file of HashedGgufWriter's into another one, with the rows of some tensors in another order. One
// thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "src/base/aligned_buffer.h"
#include "src/base/function_ref.h"
#include "src/base/result.h"
#include "src/format/hashed_gguf_reader.h"
#include "src/format/hashed_gguf_writer.h"
#include "src/format/neuron_activity.h"

namespace frugal {

class HashedCopy {
 public:
  using Tensor = HashedGgufReader::Tensor;
  // How the rows of a tensor are to lie: entry i is the source's row at i. Empty: as in the source. //
  // [rows], a permutation
  using RowsOf = FunctionRef<std::span<const uint32_t>(const Tensor& tensor)>;
  // Called for each piece that was written; its error ends the work.
  using OnPiece = FunctionRef<Status(std::string_view tensor, uint64_t written_bytes)>;

  struct Memory {
    uint64_t staging_bytes = 0;  // what is read at once
    uint64_t panel_bytes = 0;    // rows that are put together before they are written; at least one bundle
  };

  // What the copy's keys have instead of the source's.
  struct KeyChanges {
    std::string_view replaced_key;               // may be empty
    std::string replacement;                     // its value
    const NeuronActivity* activity = nullptr;    // nullptr: as in the source
  };

  // `source` outlives this. Allocates the memory.
  static Result<HashedCopy> Create(HashedGgufReader& source, const Memory& memory);

  // Writes `path`. Returns the copy's content hash. kBadModel for a key of a type that no packed file has.
  Result<uint64_t> Write(const std::string& path, Overwrite overwrite, const KeyChanges& changes, RowsOf rows_of, OnPiece on_piece);

  // What moving the rows of a tensor takes beside Memory: tensors that are no bundles are put together as a
  // whole.
  static uint64_t MoveBytes(const Tensor& tensor) {
    return tensor.is_bundle ? 0 : 2 * tensor.info->extent.size_bytes;
  }

 private:
  explicit HashedCopy(HashedGgufReader& source) : source_(source) {}
  Status CopyKeys(const KeyChanges& changes, GgufWriter& keys) const;
  Status CopyTensor(const Tensor& tensor, HashedGgufWriter& writer, size_t index, OnPiece on_piece);
  Status MoveRows(const Tensor& tensor, std::span<const uint32_t> rows, HashedGgufWriter& writer,
                  size_t index, OnPiece on_piece);
  Status MoveBundles(const Tensor& tensor, std::span<const uint32_t> rows, HashedGgufWriter& writer,
                     size_t index, OnPiece on_piece);
  // Puts the bundles rows[0 .. count) into the panel.
  Status FillPanel(const Tensor& tensor, std::span<const uint32_t> rows);

  HashedGgufReader& source_;
  AlignedBuffer staging_, panel_;
};

}  // namespace frugal
