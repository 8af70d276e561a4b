// Opening: hashes, vectors, what is resident, the cache and the streams; and verification, wherever bytes come from.
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "src/base/bytes.h"
#include "src/format/packed_format.h"
#include "src/kernels/interleaved_rows.h"
#include "src/model/weights.h"
#include "src/model/weights_internal.h"

namespace frugal {
namespace {

// Reads that may be pending at once: as deep as the queue, and what a poll starts. The cache's others stay where they can be given up.
uint32_t ReaderCapacity(uint32_t queue_depth) { return queue_depth + static_cast<uint32_t>(Weights::kMostStarts); }

constexpr uint64_t kConversionBytes = 256 * kKiB;
// WholeReader::ReadNow's for what is not aligned.
constexpr uint64_t kBounceBytes = kMiB;

WeightPlan PlanFor(const ModelFile& model, const WeightPlan& plan) {
  WeightPlan possible = plan;
  if (!model.is_packed()) possible.verify = VerifyMode::kOff;
  return possible;
}

uint64_t MaxRowScratchBytes(const ModelFile& model) {
  uint64_t most = 0;
  for (const MatrixInfo& matrix : model.matrices()) most = std::max(most, matrix.row_bytes);
  for (const BundleInfo& bundle : model.bundles()) most = std::max(most, bundle.stride_bytes);
  return RoundUp(most, kHashChunkBytes) + 2 * kHashChunkBytes;
}

}  // namespace

Weights::Weights(const ModelFile& model, const WeightPlan& plan, std::vector<File> files)
    : model_(model), plan_(PlanFor(model, plan)), files_(std::move(files)) {}

uint64_t Weights::VectorBytes(const ModelFile& model) { return model.vector_floats() * sizeof(float); }

uint64_t Weights::HashTableBytes(const ModelFile& model, const WeightPlan& plan) {
  if (plan.verify == VerifyMode::kOff || !model.is_packed()) return 0;
  return (model.num_hashes() + model.bundles().size() * uint64_t{model.config().ffn_size}) * sizeof(uint64_t);
}

uint64_t Weights::ScratchBytes(const ModelFile& model) {
  return uint64_t{model.config().ffn_size} * (3 * sizeof(uint32_t) + 2) + MaxRowScratchBytes(model) +
         (model.is_packed() ? 0 : kBounceBytes);
}

uint64_t Weights::ReaderBytes(const WeightsOptions& options) {
  ReaderOptions reader;
  reader.backend = options.backend;
  reader.queue_depth = options.queue_depth;
  reader.num_pread_threads = options.num_pread_threads;
  return ReaderMemoryBytes(reader) + WholeReader::MemoryBytes(ReaderCapacity(options.queue_depth), BundleCache::kMaxJoined);
}

Result<std::unique_ptr<Weights>> Weights::Open(const ModelFile& model, const WeightPlan& plan, const WeightsOptions& options) {
  std::vector<File> files;
  for (const std::string& path : model.file_paths()) {
    FRUGAL_ASSIGN(File file, File::Open(path, options.direct, kSectorBytes));
    files.push_back(std::move(file));
  }
  std::unique_ptr<Weights> weights(new Weights(model, plan, std::move(files)));
  FRUGAL_TRY(weights->Load(options));
  return weights;
}

Status Weights::Load(const WeightsOptions& options) {
  const uint32_t ffn_size = model_.config().ffn_size;
  wave_index_.resize(ffn_size);
  ready_members_.resize(ffn_size);
  ready_rows_.resize(ffn_size);
  given_.resize(ffn_size);
  kept_.resize(ffn_size);
  FRUGAL_ASSIGN(row_scratch_, AlignedBuffer::Allocate(MaxRowScratchBytes(model_)));
  layout_ = LayOutBlocks(model_, plan_);
  block_verified_.assign(layout_.blocks.size(), 0);
  scan_verified_.assign(model_.config().num_layers, 0);
  FRUGAL_ASSIGN(resident_, AlignedBuffer::Allocate(layout_.resident_bytes));

  ReaderOptions reader_options;
  reader_options.backend = options.backend;
  reader_options.queue_depth = options.queue_depth;
  reader_options.num_pread_threads = options.num_pread_threads;
  std::vector<int> fds;
  for (const File& file : files_) fds.push_back(file.fd());
  reader_options.fds = fds;
  FRUGAL_ASSIGN(OpenedReader opened, OpenReader(reader_options));
  reader_note_ = opened.note;
  if (options.decorate_reader) opened.reader = options.decorate_reader(std::move(opened.reader));
  reader_ = std::make_unique<WholeReader>(std::move(opened.reader), ReaderCapacity(options.queue_depth), BundleCache::kMaxJoined);

  FRUGAL_TRY(LoadHashes());
  FRUGAL_TRY(LoadVectors());
  FRUGAL_TRY(LoadResident());
  if (plan_.ffn == FfnPlacement::kOnDemand) FRUGAL_TRY(OpenCache());
  if (!layout_.groups.empty()) {
    FRUGAL_ASSIGN(StreamRing ring,
                  StreamRing::Create(files_, *reader_, layout_.stream_buffer_bytes, plan_.num_stream_buffers, kStreamTag));
    stream_.emplace(std::move(ring));
    stream_->Start(layout_.groups, StreamRing::Order::kCyclic, plan_.overlap);
  }
  return TakeError();
}

Status Weights::LoadHashes() {
  if (!model_.is_packed()) return {};
  const uint32_t num_layers = static_cast<uint32_t>(model_.bundles().size());
  const uint64_t ffn_size = model_.config().ffn_size;
  const auto read = [this](const Extent& extent, std::span<uint64_t> out, const std::string& what) -> Status {
    FRUGAL_ASSIGN(AlignedBuffer buffer, AlignedBuffer::Allocate(RoundUp(extent.size_bytes, 4096)));
    FRUGAL_TRY(Direct(0, extent.offset_bytes, buffer.bytes(), what));
    std::memcpy(out.data(), buffer.data(), extent.size_bytes);
    return {};
  };
  std::vector<uint64_t> hash_of_hashes(model_.hash_of_hashes().size_bytes / 8);
  FRUGAL_TRY(read(model_.hash_of_hashes(), hash_of_hashes, kHashOfHashesName));
  content_hash_ = HashBytes(std::as_bytes(std::span<const uint64_t>(hash_of_hashes)));
  if (plan_.verify == VerifyMode::kOff) return {};
  FRUGAL_TRY(VerifyHeader(hash_of_hashes[num_layers + 1]));
  const auto check = [&](std::span<const uint64_t> hashes, uint32_t index, const std::string& name) -> Status {
    if (HashBytes(std::as_bytes(hashes)) == hash_of_hashes[index]) return {};
    return BadModel("{}: {}: row {} at offset {}: the hashes do not match their own hash: the file is damaged", files_[0].path(), name, 0,
                    model_.gguf().FindTensor(name)->extent.offset_bytes);
  };
  bundle_hashes_.resize(num_layers * ffn_size);
  for (uint32_t layer = 0; layer < num_layers; ++layer) {
    const std::span<uint64_t> hashes = std::span<uint64_t>(bundle_hashes_).subspan(layer * ffn_size, ffn_size);
    FRUGAL_TRY(read(model_.bundles()[layer].hashes, hashes, BundleHashesName(layer)));
    FRUGAL_TRY(check(hashes, layer, BundleHashesName(layer)));
  }
  tensor_hashes_.resize(model_.num_hashes());
  FRUGAL_TRY(read(model_.tensor_hashes(), tensor_hashes_, kTensorHashesName));
  return check(tensor_hashes_, num_layers, kTensorHashesName);
}

// The header (keys, vocabulary, tensor infos) was parsed already; a flipped bit in it is an error all the same.
Status Weights::VerifyHeader(uint64_t expected) {
  const uint64_t size = model_.gguf().data_offset_bytes();
  FRUGAL_ASSIGN(AlignedBuffer piece, AlignedBuffer::Allocate(64 * kKiB));
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), XXH3_freeState);
  XXH3_64bits_reset(state.get());
  for (uint64_t at = 0; at < size; at += piece.size_bytes()) {
    const std::span<std::byte> bytes = piece.bytes().first(std::min<uint64_t>(piece.size_bytes(), size - at));
    FRUGAL_TRY(Direct(0, at, bytes, "header (no tensor)"));
    XXH3_64bits_update(state.get(), bytes.data(), bytes.size());
  }
  if (XXH3_64bits_digest(state.get()) == expected) return {};
  return BadModel("{}: {}: row {}: the header (bytes 0 to {}) does not match its hash: the file is damaged", files_[0].path(),
                  kHashOfHashesName, model_.bundles().size() + 1, size);
}

Status Weights::LoadVector(const VectorInfo& info, std::span<float> out, AlignedBuffer& scratch) {
  const std::span<std::byte> bytes = scratch.bytes().first(ReadBytes(info.extent.size_bytes));
  FRUGAL_TRY(Direct(info.file_index, info.extent.offset_bytes, bytes, info.name));
  if (plan_.verify != VerifyMode::kOff) {
    FRUGAL_TRY(VerifyChunks(info.name, TraitsOf(info.dtype).block_bytes, 0, info.first_hash, bytes.first(info.extent.size_bytes),
                            info.extent.offset_bytes));
  }
  const uint64_t element_bytes = TraitsOf(info.dtype).block_bytes;
  for (uint64_t i = 0; i < info.size; i += info.runs.run_rows) {
    const uint64_t count = std::min(info.runs.run_rows, info.size - i);
    ConvertToFloat(info.dtype, bytes.data() + info.runs.OffsetBytes(i, element_bytes), count, out.data() + i);
  }
  if (info.lacks_one) {
    for (float& value : out) value += 1.0f;
  }
  return {};
}

Status Weights::LoadVectors() {
  vectors_.resize(model_.vector_floats());
  FRUGAL_ASSIGN(AlignedBuffer scratch, AlignedBuffer::Allocate(RoundUp(model_.longest_vector_bytes(), 4096)));
  size_t at = 0;
  const auto load = [&](const VectorInfo& info, size_t* where) -> Status {
    *where = at;
    if (info.size == 0) return {};
    FRUGAL_TRY(LoadVector(info, std::span<float>(vectors_).subspan(at, info.size), scratch));
    at += info.size;
    return {};
  };
  vector_at_.resize(model_.config().num_layers);
  for (uint32_t layer = 0; layer < model_.config().num_layers; ++layer) {
    for (size_t i = 0; i < kNumLayerVectors; ++i) {
      FRUGAL_TRY(load(model_.vector(layer, static_cast<LayerVector>(i)), &vector_at_[layer][i]));
    }
  }
  for (size_t i = 0; i < kNumGlobalVectors; ++i) FRUGAL_TRY(load(model_.vector(static_cast<GlobalVector>(i)), &global_vector_at_[i]));
  return {};
}

// Rows that are read and converted together: whole hash chunks.
static uint64_t ConversionRows(const MatrixInfo& matrix) {
  const uint64_t unit_rows = kHashChunkBytes / std::gcd(matrix.row_bytes, uint64_t{kHashChunkBytes});
  return std::max<uint64_t>(1, kConversionBytes / (unit_rows * matrix.row_bytes)) * unit_rows;
}

uint64_t Weights::ConversionBytes(const ModelFile& model, const WeightPlan& plan) {
  uint64_t most = 0;
  for (uint32_t id = 0; id < model.matrices().size(); ++id) {
    const MatrixInfo& matrix = model.matrices()[id];
    if (MemoryType(model, plan, id) == matrix.dtype) continue;
    most = std::max(most, RoundUp(matrix.columns * sizeof(float), 4096) + RoundUp(ConversionRows(matrix) * matrix.row_bytes, 4096));
  }
  return most;
}

Status Weights::LoadConverted(const WeightBlock& block, AlignedBuffer& staging) {
  const MatrixInfo& matrix = model_.matrices()[block.matrix];
  const DType type = matrix_type(block.matrix);
  const uint64_t row_bytes = block.memory_bytes / block.num_rows;
  const uint64_t rows_at_once = ConversionRows(matrix);
  const auto floats = std::span(reinterpret_cast<float*>(staging.data()), matrix.columns);
  const std::span<std::byte> bytes = staging.bytes().subspan(RoundUp(floats.size_bytes(), 4096));
  for (uint64_t row = 0; row < block.num_rows; row += rows_at_once) {
    WeightBlock part = block;
    part.num_rows = std::min(rows_at_once, block.num_rows - row);
    part.first_row = block.first_row + row;
    part.first_hash = block.first_hash + row * matrix.row_bytes / kHashChunkBytes;
    part.extent = {block.extent.offset_bytes + row * matrix.row_bytes, part.num_rows * matrix.row_bytes};
    FRUGAL_TRY(Direct(part.file_index, part.extent.offset_bytes, bytes.first(ReadBytes(part.extent.size_bytes)), matrix.name));
    if (plan_.verify != VerifyMode::kOff) FRUGAL_TRY(VerifyBlock(part, bytes.data()));
    for (uint64_t i = 0; i < part.num_rows; ++i) {
      ConvertToFloat(matrix.dtype, bytes.data() + i * matrix.row_bytes, matrix.columns, floats.data());
      ConvertFromFloat(type, floats.data(), matrix.columns, resident_.data() + block.memory_offset + (row + i) * row_bytes);
    }
  }
  return {};
}

Status Weights::LoadResident() {
  FRUGAL_ASSIGN(AlignedBuffer staging, AlignedBuffer::Allocate(ConversionBytes(model_, plan_)));
  matrix_first_block_.assign(model_.matrices().size(), kNoMatrix);
  bundle_first_block_.assign(model_.config().num_layers, 0);
  for (uint32_t i = static_cast<uint32_t>(layout_.blocks.size()); i-- > 0;) {
    const WeightBlock& block = layout_.blocks[i];
    (block.matrix != kNoMatrix ? matrix_first_block_[block.matrix] : bundle_first_block_[block.layer]) = i;
    if (!block.resident) continue;
    if (block.matrix != kNoMatrix && matrix_type(block.matrix) != model_.matrices()[block.matrix].dtype) {
      FRUGAL_TRY(LoadConverted(block, staging));
      continue;
    }
    const std::string& name = block.matrix != kNoMatrix ? model_.matrices()[block.matrix].name : model_.bundles()[block.layer].name;
    const std::span<std::byte> bytes =
        resident_.bytes().subspan(block.memory_offset, ReadBytes(block.extent.size_bytes));
    FRUGAL_TRY(Direct(block.file_index, block.extent.offset_bytes, bytes, name));
    if (plan_.verify != VerifyMode::kOff) FRUGAL_TRY(VerifyBlock(block, bytes.data()));
  }
  InterleaveResident();
  return {};
}

// What lies side by side is interleaved together, as it is multiplied.
void Weights::InterleaveResident() {
  interleaved_.resize(model_.matrices().size());
  for (uint32_t id = 0; id < interleaved_.size(); ++id) interleaved_[id] = InterleavesRows(matrix_type(id), model_.matrices()[id].columns);
  for (uint32_t i = 0; i < layout_.blocks.size();) {
    const WeightBlock& block = layout_.blocks[i];
    if (block.matrix == kNoMatrix || !block.resident || interleaved_[block.matrix] == 0) {
      ++i;
      continue;
    }
    std::byte* const data = resident_.data() + block.memory_offset;
    const size_t columns = model_.matrices()[block.matrix].columns;
    InterleaveRows(data, TakeRows(data, &i).num_rows, columns);
  }
}

Status Weights::OpenCache() {
  BundleSpace space;
  space.file = &files_[0];
  space.num_layers = model_.config().num_layers;
  space.bundles_per_layer = model_.config().ffn_size;
  space.stride_bytes = model_.bundles()[0].stride_bytes;
  space.up_bytes = model_.bundles()[0].down_offset_bytes;
  for (const BundleInfo& bundle : model_.bundles()) {
    space.layer_offset_bytes.push_back(bundle.extent.offset_bytes);
    space.layer_tensor_names.push_back(bundle.name);
  }
  space.hashes = bundle_hashes_;
  CacheOptions options = plan_.cache;
  options.verify = plan_.verify;
  FRUGAL_ASSIGN(cache_, BundleCache::Create(space, options, *reader_));
  if (plan_.num_scan_buffers > 0) {
    uint64_t largest = 0;
    for (uint32_t layer = 0; layer < space.num_layers; ++layer) {
      largest = std::max(largest, LayOutScan(model_, layer, plan_.block_bytes).stream_buffer_bytes);
    }
    FRUGAL_ASSIGN(StreamRing ring, StreamRing::Create(files_, *reader_, largest, plan_.num_scan_buffers, kScanTag));
    scan_.emplace(std::move(ring));
  }
  return {};
}

Result<size_t> Weights::PinPopular(uint32_t layer, std::span<const uint32_t> positions) {
  const size_t room = cache_->num_slots() / 2 - std::min(num_popular_, cache_->num_slots() / 2);
  const size_t wanted = std::min({positions.size(), room, wave_index_.size()});
  const size_t taken = cache_->PinForGood(layer, positions.first(wanted), wave_index_);
  for (size_t i = 0; i < taken; ++i) {
    while (!cache_->ready(layer, positions[i])) FRUGAL_TRY(WaitSome());
  }
  num_popular_ += static_cast<uint32_t>(taken);
  return taken;
}

// `bytes` begin at byte `first_byte` of the tensor, which is the start of the chunk whose hash is tensor_hashes_[first_hash].
Status Weights::VerifyChunks(const std::string& name, uint64_t row_bytes, uint64_t first_byte, uint64_t first_hash,
                             std::span<const std::byte> bytes, uint64_t file_offset) {
  hash_bytes_ += bytes.size();
  for (uint64_t at = 0, chunk = 0; at < bytes.size(); at += kHashChunkBytes, ++chunk) {
    const uint64_t size = std::min<uint64_t>(kHashChunkBytes, bytes.size() - at);
    if (HashBytes(bytes.subspan(at, size)) == tensor_hashes_[first_hash + chunk]) continue;
    const uint64_t first_row = (first_byte + at) / row_bytes;
    const uint64_t last_row = (first_byte + at + size - 1) / row_bytes;
    return BadModel("{}: {}: row {} to {} at offset {}: these bytes do not match their hash: the file is damaged", files_[0].path(),
                    name, first_row, last_row, file_offset + at);
  }
  return {};
}

Status Weights::VerifyBundles(const WeightBlock& block, const std::byte* bytes) {
  const BundleInfo& bundle = model_.bundles()[block.layer];
  hash_bytes_ += block.extent.size_bytes;
  const uint64_t* hashes = bundle_hashes_.data() + uint64_t{block.layer} * model_.config().ffn_size + block.first_row;
  for (uint64_t i = 0; i < block.num_rows; ++i) {
    if (HashBytes({bytes + i * bundle.stride_bytes, bundle.stride_bytes}) == hashes[i]) continue;
    return BadModel("{}: {}: row {} at offset {}: its bytes do not match their hash: the file is damaged", files_[0].path(),
                    bundle.name, block.first_row + i, block.extent.offset_bytes + i * bundle.stride_bytes);
  }
  return {};
}

Status Weights::VerifyBlock(const WeightBlock& block, const std::byte* bytes) {
  if (block.matrix == kNoMatrix) return VerifyBundles(block, bytes);
  const MatrixInfo& matrix = model_.matrices()[block.matrix];
  return VerifyChunks(matrix.name, matrix.row_bytes, block.first_row * matrix.row_bytes, block.first_hash,
                      {bytes, block.extent.size_bytes}, block.extent.offset_bytes);
}

Error Weights::StreamError(const BlockLayout& layout, const StreamGroup& group, const ReadFailure& failure) const {
  // A read may begin before its first block.
  uint32_t index = group.first_block;
  const uint32_t last = group.first_block + group.num_blocks - 1;
  while (index < last && failure.offset_bytes >= layout.blocks[index].extent.end_bytes()) ++index;
  const WeightBlock& block = layout.blocks[index];
  const bool is_matrix = block.matrix != kNoMatrix;
  const std::string& name = is_matrix ? model_.matrices()[block.matrix].name : model_.bundles()[block.layer].name;
  const uint64_t row_bytes = is_matrix ? model_.matrices()[block.matrix].row_bytes : model_.bundles()[block.layer].stride_bytes;
  const uint64_t offset = std::max(failure.offset_bytes, block.extent.offset_bytes);
  const uint64_t row = std::min((offset - block.extent.offset_bytes) / row_bytes, block.num_rows - 1);
  return MakeError(ErrorCode::kIo, "{}: {}: row {}: {}", files_[group.file_index].path(), name, block.first_row + row,
                   DescribeFailure(failure));
}

}  // namespace frugal
