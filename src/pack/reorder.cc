#include "src/pack/reorder.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "src/base/clock.h"
#include "src/format/hashed_gguf_reader.h"
#include "src/format/tokenizer_keys.h"
#include "src/model/config.h"
#include "src/pack/bundle_types.h"
#include "src/pack/hashed_copy.h"

namespace frugal {
namespace {

using Progress = FunctionRef<void(double share, std::string_view what)>;
using Tensor = HashedGgufReader::Tensor;

// Stack, heap of the libraries, tables of the headers, kernel memory: as pack's.
constexpr uint64_t kProcessBytes = 12 * kMiB;
constexpr uint64_t kStagingBytes = 4 * kMiB;
// A panel smaller than the layer reads the layer in pieces: time grows with their number.
constexpr uint64_t kMaxPanels = 64;

// Tensors whose rows are a layer's neurons.
constexpr const char* kModelParts[] = {"ffn_bundle.weight", "ffn_order", "ffn_up.bias", "ffn_gate.bias", "ffn_gate.weight"};
constexpr size_t kNumRequiredParts = 2;  // of these the first; the others where the model has them
constexpr const char* kPredictorParts[] = {"predictor.up", "predictor.bias", "predictor.popularity",
                                           "early.up", "early.bias"};
constexpr const char* kOtherPredictorParts[] = {"predictor.down", "early.down"};

struct LayerPart {
  uint32_t layer = 0;
  std::string_view part;
};

// "blk.N.PART"; nothing for other names.
std::optional<LayerPart> ParseName(std::string_view name) {
  if (!name.starts_with("blk.")) return std::nullopt;
  LayerPart parsed;
  const char* const end = name.data() + name.size();
  const auto [at, error] = std::from_chars(name.data() + 4, end, parsed.layer);
  if (error != std::errc() || at == end || *at != '.') return std::nullopt;
  parsed.part = std::string_view(at + 1, end);
  return parsed;
}

template <size_t n>
bool Holds(const char* const (&parts)[n], std::string_view part) {
  return std::find(std::begin(parts), std::end(parts), part) != std::end(parts);
}

bool IsSameFile(const std::string& a, const std::string& b) {
  struct stat first = {}, second = {};
  return stat(a.c_str(), &first) == 0 && stat(b.c_str(), &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

class Reorderer {
 public:
  Reorderer(const ReorderOptions& options, Progress progress) : options_(options), progress_(progress) {}

  Result<PackReport> Run() {
    const uint64_t start_ns = NowNs();
    FRUGAL_TRY(Open());
    FRUGAL_TRY(PlanMemory());
    FRUGAL_TRY(FindRows());
    FRUGAL_TRY(WriteModel());
    if (predictor_ != nullptr) FRUGAL_TRY(WritePredictor());
    FillReport();
    report_.elapsed_ns = NowNs() - start_ns;
    return std::move(report_);
  }

 private:
  Status Open();
  Status OpenModel();
  Status OpenPredictor();
  Status CheckPredictorTensor(const Tensor& tensor);
  Status PlanMemory();
  Status FindRows();
  Result<std::vector<uint32_t>> ReadOrder(const Tensor& tensor);
  Status WriteModel();
  Status WritePredictor();
  Status CopyFile(HashedGgufReader& source, const std::string& path, const HashedCopy::KeyChanges& changes, uint64_t* content_hash);
  Status Advance(std::string_view tensor, uint64_t written_bytes);
  void FillReport();

  const ReorderOptions& options_;
  const Progress progress_;
  std::unique_ptr<HashedGgufReader> model_, predictor_;
  ModelConfig config_;
  uint64_t stride_bytes_ = 0;
  HashedCopy::Memory memory_;
  NeuronOrders rows_;  // [num_layers][ffn_size]: the source's position of each position
  uint64_t done_bytes_ = 0, total_bytes_ = 1;
  PackReport report_;
};

Status Reorderer::Open() {
  FRUGAL_TRY(OpenModel());
  if (!options_.predictor_source_path.empty()) FRUGAL_TRY(OpenPredictor());
  for (const std::string& output : {options_.output_path, options_.predictor_output_path}) {
    for (const std::string& source : {options_.source_path, options_.predictor_source_path}) {
      if (output.empty() || source.empty() || !IsSameFile(output, source)) continue;
      return MakeError(ErrorCode::kUsage, "{}: is the source itself", output);
    }
  }
  return {};
}

Status Reorderer::OpenModel() {
  const std::string& path = options_.source_path;
  FRUGAL_ASSIGN(model_, HashedGgufReader::Open(path));
  const GgufReader& gguf = model_->gguf();
  FRUGAL_ASSIGN(const uint64_t version, gguf.GetUint(kPackedVersionKey));
  if (version != kPackedVersion) {
    return BadModel("{}: {} is {}, this program reads {}", path, kPackedVersionKey, version, kPackedVersion);
  }
  FRUGAL_ASSIGN(config_, ReadGgufConfig(gguf));
  if (config_.ffn_layout == FfnLayout::kMatrices) {
    return MakeError(ErrorCode::kUsage, "{}: its activation {} is never zero, so that it has no bundles to order", path,
                     ActivationName(config_.activation));
  }
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
    for (size_t i = 0; i < std::size(kModelParts); ++i) {
      const std::string name = LayerTensorName(layer, kModelParts[i]);
      const Tensor* tensor = model_->Find(name);
      if (tensor == nullptr && i >= kNumRequiredParts) continue;
      if (tensor == nullptr) return BadModel("{}: tensor {} is missing", path, name);
      const bool is_matrix = tensor->is_bundle || name.ends_with("ffn_gate.weight");
      if (tensor->info->shape[0] != config_.ffn_size || tensor->info->shape.size() != (is_matrix ? 2u : 1u)) {
        return BadModel("{}: {}: found the shape [{}], expected {} neurons", path, name,
                        fmt::join(tensor->info->shape, ", "), config_.ffn_size);
      }
      if (tensor->is_bundle) stride_bytes_ = std::max(stride_bytes_, tensor->unit_bytes);
    }
  }
  for (const Tensor& tensor : model_->tensors()) total_bytes_ += tensor.info->extent.size_bytes;
  return CheckNeuronOrders(options_.neuron_orders, config_.num_layers, config_.ffn_size);
}

// A tensor that this program does not know might have to move with the neurons.
Status Reorderer::CheckPredictorTensor(const Tensor& tensor) {
  const std::string& name = tensor.info->name;
  const std::optional<LayerPart> parsed = ParseName(name);
  if (!parsed || parsed->layer >= config_.num_layers ||
      (!Holds(kPredictorParts, parsed->part) && !Holds(kOtherPredictorParts, parsed->part))) {
    return BadModel("{}: {}: no tensor that predictors of this model have", predictor_->path(), name);
  }
  if (Holds(kPredictorParts, parsed->part) && tensor.info->shape[0] != config_.ffn_size) {
    return BadModel("{}: {}: found the shape [{}], expected {} neurons", predictor_->path(), name,
                    fmt::join(tensor.info->shape, ", "), config_.ffn_size);
  }
  return {};
}

Status Reorderer::OpenPredictor() {
  const std::string& path = options_.predictor_source_path;
  FRUGAL_ASSIGN(predictor_, HashedGgufReader::Open(path));
  FRUGAL_ASSIGN(const std::string hash, predictor_->gguf().GetString(kPredictorModelKey));
  const std::string expected = fmt::format("{:016x}", model_->content_hash());
  if (hash != expected) {
    return BadModel("{}: its predictors belong to another model: {} is {}, the content hash of {} is {}",
                    path, kPredictorModelKey, hash, options_.source_path, expected);
  }
  for (const Tensor& tensor : predictor_->tensors()) {
    FRUGAL_TRY(CheckPredictorTensor(tensor));
    total_bytes_ += tensor.info->extent.size_bytes;
  }
  return {};
}

Status Reorderer::PlanMemory() {
  const uint64_t ffn_size = config_.ffn_size;
  uint64_t header_bytes = 0, hashes_bytes = 0, move_bytes = 0;
  for (const HashedGgufReader* file : {model_.get(), predictor_.get()}) {
    if (file == nullptr) continue;
    // Keys as they lie in the file, and strings on their way from one to the other.
    header_bytes = std::max(header_bytes, 5 * file->gguf().data_offset_bytes());
    hashes_bytes += file->num_hashes() * sizeof(uint64_t) + HashedGgufWriter::MemoryBytes(file->num_hashes());
    for (const Tensor& tensor : file->tensors()) {
      const std::optional<LayerPart> parsed = ParseName(tensor.info->name);
      if (!parsed || !(Holds(kModelParts, parsed->part) || Holds(kPredictorParts, parsed->part))) continue;
      move_bytes = std::max(move_bytes, HashedCopy::MoveBytes(tensor));
    }
  }
  MemoryLedger& ledger = report_.memory;
  ledger.Add("process", kProcessBytes, "code, stack, headers");
  ledger.Add("keys", header_bytes, "while they are copied");
  ledger.Add("hashes", hashes_bytes, "read, and to be written last");
  ledger.Add("orders", (2 * config_.num_layers + 3) * ffn_size * sizeof(uint32_t), "of all layers");
  ledger.Add("rows", move_bytes, "of the largest tensor that is moved as a whole");
  memory_.staging_bytes = RoundUp(std::max(kStagingBytes, stride_bytes_), kHashChunkBytes);
  ledger.Add("staging", memory_.staging_bytes, "what is read");
  const uint64_t fixed_bytes = ledger.total_bytes();
  const uint64_t least_positions = (ffn_size + kMaxPanels - 1) / kMaxPanels;
  const uint64_t smallest_bytes = fixed_bytes + least_positions * stride_bytes_;
  if (smallest_bytes > options_.ram_bytes) {
    return MakeError(
        ErrorCode::kDoesNotFit,
        "packing needs at least {} of RAM, but the budget is {}; the smallest that works is --ram {}M",
        FormatSize(smallest_bytes), FormatSize(options_.ram_bytes), (smallest_bytes + kMiB - 1) / kMiB);
  }
  const uint64_t positions = std::min((options_.ram_bytes - fixed_bytes) / stride_bytes_, ffn_size);
  memory_.panel_bytes = positions * stride_bytes_;
  ledger.Add("panel", memory_.panel_bytes, fmt::format("{} of {} bundles of a layer", positions, ffn_size));
  return {};
}

// The checkpoint's neuron of each of the source's positions.
Result<std::vector<uint32_t>> Reorderer::ReadOrder(const Tensor& tensor) {
  if (tensor.info->dtype != DType::kI32) {
    return BadModel("{}: {}: is {}, expected I32", model_->path(), tensor.info->name,
                    DTypeName(tensor.info->dtype));
  }
  std::vector<uint32_t> order(config_.ffn_size);
  FRUGAL_TRY(model_->Read(tensor, 0, std::as_writable_bytes(std::span(order))));
  const std::string problem = WhyNoPermutation(order);
  if (problem.empty()) return order;
  return BadModel("{}: {}: {}: this is no order of neurons", model_->path(), tensor.info->name, problem);
}

Status Reorderer::FindRows() {
  if (options_.neuron_orders.empty()) return {};
  std::vector<uint32_t> position_of(config_.ffn_size);
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
    FRUGAL_ASSIGN(const std::vector<uint32_t> source, ReadOrder(*model_->Find(BundleOrderName(layer))));
    for (uint32_t position = 0; position < source.size(); ++position)
      position_of[source[position]] = position;
    std::vector<uint32_t>& rows = rows_.emplace_back();
    rows.reserve(source.size());
    for (const uint32_t neuron : options_.neuron_orders[layer]) rows.push_back(position_of[neuron]);
  }
  return {};
}

Status Reorderer::Advance(std::string_view tensor, uint64_t written_bytes) {
  done_bytes_ += written_bytes;
  progress_(std::min(1.0, static_cast<double>(done_bytes_) / static_cast<double>(total_bytes_)), tensor);
  if (options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed)) {
    return MakeError(ErrorCode::kFailed, "interrupted: {} is not complete", options_.output_path);
  }
  return {};
}

Status Reorderer::CopyFile(HashedGgufReader& source, const std::string& path, const HashedCopy::KeyChanges& changes,
                           uint64_t* content_hash) {
  FRUGAL_ASSIGN(HashedCopy copy, HashedCopy::Create(source, memory_));
  const auto rows_of = [this](const Tensor& tensor) -> std::span<const uint32_t> {
    const std::optional<LayerPart> parsed = ParseName(tensor.info->name);
    if (rows_.empty() || !parsed || parsed->layer >= rows_.size()) return {};
    if (!Holds(kModelParts, parsed->part) && !Holds(kPredictorParts, parsed->part)) return {};
    return rows_[parsed->layer];
  };
  const auto on_piece = [this](std::string_view tensor, uint64_t written_bytes) {
    return Advance(tensor, written_bytes);
  };
  FRUGAL_ASSIGN(*content_hash, copy.Write(path, options_.overwrite, changes, rows_of, on_piece));
  return {};
}

Status Reorderer::WriteModel() {
  HashedCopy::KeyChanges changes;
  if (options_.activity) changes.activity = &*options_.activity;
  return CopyFile(*model_, options_.output_path, changes, &report_.content_hash);
}

Status Reorderer::WritePredictor() {
  uint64_t own_hash = 0;
  return CopyFile(*predictor_, options_.predictor_output_path, {kPredictorModelKey, fmt::format("{:016x}", report_.content_hash), nullptr},
                  &own_hash);
}

void Reorderer::FillReport() {
  struct stat status = {};
  if (stat(options_.output_path.c_str(), &status) == 0)
    report_.file_bytes = static_cast<uint64_t>(status.st_size);
  report_.source_bytes_read = model_->bytes_read() + (predictor_ != nullptr ? predictor_->bytes_read() : 0);
  report_.layout = config_.ffn_layout;
  report_.activation = config_.activation;
  const Result<std::vector<BundlePart>> parts = ReadBundleParts(model_->gguf(), 0, config_);
  const uint64_t num_parts = parts ? parts->size() : 2;
  for (const Tensor& tensor : model_->tensors()) {
    const TensorInfo& info = *tensor.info;
    if (info.name.ends_with(".ffn_order") || info.name == kLargestDifferenceName) continue;
    ++report_.num_tensors;
    report_.num_parameters +=
        tensor.is_bundle ? num_parts * info.rows() * config_.hidden_size : info.rows() * info.columns();
  }
  report_.stride_bytes = stride_bytes_;
  if (parts) {
    report_.down_type = parts->back().dtype;
    report_.up_type = (*parts)[parts->size() - 2].dtype;
    if (parts->size() == 3) report_.gate_type = parts->front().dtype;
  }
  report_.has_tokenizer = model_->gguf().Find(tokenizer_keys::kTokens) != nullptr;
}

}  // namespace

Result<PackReport> Reorder(const ReorderOptions& options, Progress progress) {
  return Reorderer(options, progress).Run();
}

}  // namespace frugal
