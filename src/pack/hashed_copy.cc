#include "src/pack/hashed_copy.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "src/base/bytes.h"
#include "src/base/check.h"
#include "src/format/packed_format.h"
#include "src/pack/key_copy.h"

namespace frugal {
namespace {

// A gap in the source is read over up to this size: a read of its own would take longer.
constexpr uint64_t kMaxGapBytes = 64 * kKiB;

}  // namespace

Result<HashedCopy> HashedCopy::Create(HashedGgufReader& source, const Memory& memory) {
  HashedCopy copy(source);
  CHECK(memory.staging_bytes % kHashChunkBytes == 0);
  FRUGAL_ASSIGN(copy.staging_, AlignedBuffer::Allocate(memory.staging_bytes));
  FRUGAL_ASSIGN(copy.panel_, AlignedBuffer::Allocate(memory.panel_bytes));
  return copy;
}

Status HashedCopy::CopyKeys(const KeyChanges& changes, GgufWriter& keys) const {
  for (const GgufKeyValue& entry : source_.gguf().key_values()) {
    // The writer has put these in.
    if (entry.key == "general.alignment" || entry.key == kHashChunkKey) continue;
    if (changes.activity != nullptr && IsActivityKey(entry.key)) continue;
    if (entry.key == changes.replaced_key) {
      keys.AddString(entry.key, changes.replacement);
    } else {
      FRUGAL_TRY(CopyGgufKey(source_.gguf(), entry, keys));
    }
  }
  if (changes.activity != nullptr) AddActivityKeys(*changes.activity, keys);
  return {};
}

Result<uint64_t> HashedCopy::Write(const std::string& path, Overwrite overwrite, const KeyChanges& changes, RowsOf rows_of,
                                   OnPiece on_piece) {
  FRUGAL_ASSIGN(const std::unique_ptr<HashedGgufWriter> writer, HashedGgufWriter::Open(path, overwrite));
  FRUGAL_TRY(CopyKeys(changes, writer->keys()));
  uint32_t layer = 0;
  for (const Tensor& tensor : source_.tensors()) {
    if (tensor.is_bundle) {
      writer->AddBundles(layer++, tensor.info->rows(), tensor.unit_bytes);
    } else {
      writer->AddTensor(tensor.info->name, tensor.info->dtype, tensor.info->shape);
    }
  }
  FRUGAL_TRY(writer->BeginData());
  for (size_t i = 0; i < source_.tensors().size(); ++i) {
    const Tensor& tensor = source_.tensors()[i];
    const std::span<const uint32_t> rows = rows_of(tensor);
    if (rows.empty()) {
      FRUGAL_TRY(CopyTensor(tensor, *writer, i, on_piece));
    } else if (tensor.is_bundle) {
      FRUGAL_TRY(MoveBundles(tensor, rows, *writer, i, on_piece));
    } else {
      FRUGAL_TRY(MoveRows(tensor, rows, *writer, i, on_piece));
    }
  }
  FRUGAL_TRY(writer->Finish());
  return writer->content_hash();
}

Status HashedCopy::CopyTensor(const Tensor& tensor, HashedGgufWriter& writer, size_t index,
                              OnPiece on_piece) {
  const uint64_t at_once = RoundDown(staging_.size_bytes(), tensor.unit_bytes);
  const uint64_t size_bytes = tensor.info->extent.size_bytes;
  for (uint64_t at = 0; at < size_bytes; at += at_once) {
    const std::span<std::byte> piece = staging_.bytes().first(std::min(at_once, size_bytes - at));
    FRUGAL_TRY(source_.Read(tensor, at, piece));
    FRUGAL_TRY(writer.Append(index, piece));
    FRUGAL_TRY(on_piece(tensor.info->name, piece.size()));
  }
  return {};
}

Status HashedCopy::MoveRows(const Tensor& tensor, std::span<const uint32_t> rows, HashedGgufWriter& writer,
                            size_t index, OnPiece on_piece) {
  FRUGAL_ASSIGN(const std::vector<std::byte> from, source_.ReadAll(tensor));
  CHECK(from.size() % rows.size() == 0);
  const size_t row_bytes = from.size() / rows.size();
  std::vector<std::byte> to(from.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(to.data() + i * row_bytes, from.data() + rows[i] * row_bytes, row_bytes);
  }
  FRUGAL_TRY(writer.Append(index, to));
  return on_piece(tensor.info->name, to.size());
}

Status HashedCopy::MoveBundles(const Tensor& tensor, std::span<const uint32_t> rows, HashedGgufWriter& writer,
                               size_t index, OnPiece on_piece) {
  CHECK(rows.size() == tensor.info->rows());
  const uint64_t at_once = panel_.size_bytes() / tensor.unit_bytes;
  CHECK(at_once > 0 && staging_.size_bytes() >= tensor.unit_bytes);
  for (uint64_t first = 0; first < rows.size(); first += at_once) {
    const auto wanted = rows.subspan(first, std::min<uint64_t>(at_once, rows.size() - first));
    FRUGAL_TRY(FillPanel(tensor, wanted));
    const std::span<const std::byte> bundles =
        std::span<const std::byte>(panel_.bytes()).first(wanted.size() * tensor.unit_bytes);
    FRUGAL_TRY(writer.Append(index, bundles));
    FRUGAL_TRY(on_piece(tensor.info->name, bundles.size()));
  }
  return {};
}

// In the order of the source, so that a panel of the whole layer is one sequential read.
Status HashedCopy::FillPanel(const Tensor& tensor, std::span<const uint32_t> rows) {
  const uint64_t stride_bytes = tensor.unit_bytes;
  std::vector<uint32_t> places(rows.size());
  std::iota(places.begin(), places.end(), 0u);
  std::sort(places.begin(), places.end(), [&](uint32_t a, uint32_t b) { return rows[a] < rows[b]; });
  const uint64_t most_rows = staging_.size_bytes() / stride_bytes;
  for (size_t begin = 0; begin < places.size();) {
    const uint64_t first_row = rows[places[begin]];
    size_t end = begin + 1;
    while (end < places.size() && rows[places[end]] - first_row < most_rows &&
           (rows[places[end]] - rows[places[end - 1]] - 1) * stride_bytes <= kMaxGapBytes) {
      ++end;
    }
    const uint64_t num_rows = rows[places[end - 1]] - first_row + 1;
    const std::span<std::byte> run = staging_.bytes().first(num_rows * stride_bytes);
    FRUGAL_TRY(source_.Read(tensor, first_row * stride_bytes, run));
    for (; begin < end; ++begin) {
      std::memcpy(panel_.data() + places[begin] * stride_bytes,
                  run.data() + (rows[places[begin]] - first_row) * stride_bytes, stride_bytes);
    }
  }
  return {};
}

}  // namespace frugal
