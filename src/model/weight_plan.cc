#include "src/model/weight_plan.h"

#include <algorithm>
#include <numeric>

#include "src/base/bytes.h"
#include "src/base/check.h"
#include "src/format/packed_format.h"

namespace frugal {
namespace {

constexpr uint64_t kReadAlignment = 4096;

struct Piece {  // a tensor to be cut
  uint32_t matrix = kNoMatrix;
  uint32_t layer = 0;
  uint64_t rows = 0, row_bytes = 0;
  uint32_t file_index = 0;
  Extent extent;
  RowRuns runs;
  uint64_t first_hash = 0;
  uint64_t unit_bytes = 0;  // cuts lie on multiples of it
  uint64_t memory_row_bytes = 0;
};

Piece MatrixPiece(const ModelFile& model, const WeightPlan& plan, uint32_t id) {
  const MatrixInfo& matrix = model.matrices()[id];
  const uint64_t memory_row_bytes = *RowBytes(MemoryType(model, plan, id), matrix.columns);
  return {id, 0, matrix.rows, matrix.row_bytes, matrix.file_index, matrix.extent, matrix.runs, matrix.first_hash,
          model.is_packed() ? kHashChunkBytes : 1, memory_row_bytes};
}

Piece BundlePiece(const ModelFile& model, uint32_t layer) {
  const BundleInfo& bundle = model.bundles()[layer];
  const uint64_t rows = model.config().ffn_size;
  return {kNoMatrix, layer, rows, bundle.stride_bytes, 0, bundle.extent, {rows, 0}, 0, kReadAlignment, bundle.stride_bytes};
}

void Cut(const Piece& piece, uint64_t block_bytes, std::vector<WeightBlock>& blocks) {
  // The fewest rows whose bytes are whole units.
  const uint64_t unit_rows = piece.unit_bytes / std::gcd(piece.row_bytes, piece.unit_bytes);
  const uint64_t wanted = std::max<uint64_t>(1, block_bytes / (unit_rows * piece.row_bytes)) * unit_rows;
  for (uint64_t row = 0; row < piece.rows;) {
    const uint64_t in_run = piece.runs.run_rows - row % piece.runs.run_rows;
    WeightBlock block;
    block.matrix = piece.matrix;
    block.layer = piece.layer;
    block.first_row = row;
    block.num_rows = std::min({wanted, in_run, piece.rows - row});
    block.file_index = piece.file_index;
    block.extent = {piece.extent.offset_bytes + piece.runs.OffsetBytes(row, piece.row_bytes), block.num_rows * piece.row_bytes};
    block.memory_bytes = block.num_rows * piece.memory_row_bytes;
    block.first_hash = piece.first_hash + row * piece.row_bytes / kHashChunkBytes;
    blocks.push_back(block);
    row += block.num_rows;
  }
}

// How far behind a multiple of 4096 in the file a block begins; it lies so in memory too, unless its type is another there. 0 in packed
// files.
uint64_t LeadBytes(const WeightBlock& block) {
  return block.memory_bytes == block.extent.size_bytes ? block.extent.offset_bytes % kReadAlignment : 0;
}

// Whether a block begins another run of the rows of the one before it. It lies right behind that in memory, so that both are one product.
bool BeginsRun(const WeightBlock& before, const WeightBlock& block) {
  return block.matrix != kNoMatrix && block.matrix == before.matrix && block.extent.offset_bytes != before.extent.end_bytes();
}

uint64_t ResidentBytes(const WeightBlock& block) { return RoundUp(LeadBytes(block) + block.memory_bytes, kReadAlignment); }

// Spreads `budget_bytes` of resident blocks evenly, so that there is always something to compute while reads fly.
void ChooseResident(uint64_t budget_bytes, BlockLayout& layout) {
  uint64_t total = 0;
  for (const WeightBlock& block : layout.blocks) total += ResidentBytes(block);
  const double share = total == 0 ? 0.0 : std::min(1.0, static_cast<double>(budget_bytes) / static_cast<double>(total));
  double credit = 0.0;
  const WeightBlock* before = nullptr;  // the last one, where it is resident
  for (WeightBlock& block : layout.blocks) {
    const bool continues = before != nullptr && BeginsRun(*before, block);
    const uint64_t begin = continues ? before->memory_offset + before->memory_bytes : layout.resident_bytes + LeadBytes(block);
    const uint64_t end = RoundUp(begin + block.memory_bytes, kReadAlignment);
    const uint64_t size = end - layout.resident_bytes;
    before = nullptr;
    credit += share * static_cast<double>(size);
    const bool fits = size <= budget_bytes - layout.resident_bytes;
    if (!fits || (share < 1.0 && credit < static_cast<double>(size))) continue;
    credit -= static_cast<double>(size);
    block.resident = true;
    block.memory_offset = begin;
    layout.resident_bytes = end;
    before = &block;
  }
}

void MakeGroups(uint64_t block_bytes, BlockLayout& layout) {
  for (uint32_t i = 0; i < layout.blocks.size(); ++i) {
    WeightBlock& block = layout.blocks[i];
    if (block.resident) continue;
    const uint64_t begin = RoundDown(block.extent.offset_bytes, kReadAlignment);
    const uint64_t end = RoundUp(block.extent.end_bytes(), kReadAlignment);
    const bool joins = [&] {
      if (layout.groups.empty()) return false;
      const StreamGroup& last = layout.groups.back();
      if (last.file_index != block.file_index) return false;
      const bool follows = last.first_block + last.num_blocks == i && layout.blocks[i - 1].extent.end_bytes() <= block.extent.offset_bytes;
      return follows && last.extent.end_bytes() >= begin &&
             end - last.extent.offset_bytes <= block_bytes;
    }();
    if (!joins) layout.groups.push_back({block.file_index, {begin, 0}, i, 0});
    StreamGroup& group = layout.groups.back();
    block.group = static_cast<uint32_t>(layout.groups.size() - 1);
    block.memory_offset = block.extent.offset_bytes - group.extent.offset_bytes;
    ++group.num_blocks;
    group.extent.size_bytes = end - group.extent.offset_bytes;
    layout.stream_buffer_bytes = std::max(layout.stream_buffer_bytes, group.extent.size_bytes);
  }
  for (const StreamGroup& group : layout.groups) layout.streamed_bytes += group.extent.size_bytes;
  layout.blocks.shrink_to_fit();
  layout.groups.shrink_to_fit();
}

}  // namespace

DType MemoryType(const ModelFile& model, const WeightPlan& plan, uint32_t matrix) {
  const MatrixInfo& info = model.matrices()[matrix];
  const bool converts = info.of_attention || matrix == model.ids().output;
  if (!plan.resident_type || !converts || !IsFloat(info.dtype) || !RowBytes(*plan.resident_type, info.columns)) return info.dtype;
  return *plan.resident_type;
}

bool UsesQuantisedInputs(const ModelFile& model, const WeightPlan& plan) {
  if (model.has_quantised_rows()) return true;
  return plan.resident_type && IsQuantised(MemoryType(model, plan, model.ids().output));
}

BlockLayout LayOutBlocks(const ModelFile& model, const WeightPlan& plan) {
  const MatrixIds& ids = model.ids();
  const uint32_t num_layers = model.config().num_layers;
  CHECK(!plan.resident_type || plan.resident_bytes == ~uint64_t{0});
  BlockLayout layout;
  std::vector<Piece> pieces;
  const bool one_layer = plan.only_layer >= 0;
  if (!one_layer && ids.output != ids.token_embedding) {
    // Only rows of it are used; it is worth RAM only when everything fits.
    if (plan.resident_bytes == ~uint64_t{0}) pieces.push_back(MatrixPiece(model, plan, ids.token_embedding));
  }
  if (!one_layer && plan.resident_bytes == ~uint64_t{0} && ids.position_embedding != kNoMatrix) {
    pieces.push_back(MatrixPiece(model, plan, ids.position_embedding));
  }
  if (!one_layer && ids.project_in != kNoMatrix) pieces.push_back(MatrixPiece(model, plan, ids.project_in));
  for (uint32_t layer = 0; layer < num_layers; ++layer) {
    if (one_layer && static_cast<int32_t>(layer) != plan.only_layer) continue;
    for (const uint32_t id : model.layer(layer).in_order()) {
      if (id != kNoMatrix) pieces.push_back(MatrixPiece(model, plan, id));
    }
    if (plan.ffn == FfnPlacement::kBlocks && model.has_bundles()) pieces.push_back(BundlePiece(model, layer));
  }
  if (!one_layer && ids.project_out != kNoMatrix) pieces.push_back(MatrixPiece(model, plan, ids.project_out));
  if (!one_layer) pieces.push_back(MatrixPiece(model, plan, ids.output));

  // All resident: a tensor is one block, so that a product is one call.
  const bool all = plan.resident_bytes == ~uint64_t{0};
  for (const Piece& piece : pieces) Cut(piece, all ? piece.extent.size_bytes : plan.block_bytes, layout.blocks);
  ChooseResident(plan.resident_bytes, layout);
  MakeGroups(plan.block_bytes, layout);
  return layout;
}

BlockLayout LayOutScan(const ModelFile& model, uint32_t layer, uint64_t block_bytes) {
  BlockLayout layout;
  Cut(BundlePiece(model, layer), block_bytes, layout.blocks);
  MakeGroups(block_bytes, layout);
  return layout;
}

}  // namespace frugal
