#include "src/pack/pack_plan.h"

#include <algorithm>
#include <array>
#include <utility>

#include "src/base/bytes.h"
#include "src/format/hashed_gguf_writer.h"
#include "src/format/packed_format.h"

namespace frugal {
namespace {

using Kind = PlannedTensor::Kind;

struct Name {
  const char* source;  // behind layers.N.
  const char* packed;  // behind blk.N.
};

// Vectors [hidden_size] of a layer; fc1.bias is the only one of another size.
constexpr std::array<Name, 9> kHiddenVectors = {{{"self_attn_layer_norm.weight", "attn_norm.weight"},
                                                 {"self_attn_layer_norm.bias", "attn_norm.bias"},
                                                 {"self_attn.q_proj.bias", "attn_q.bias"},
                                                 {"self_attn.k_proj.bias", "attn_k.bias"},
                                                 {"self_attn.v_proj.bias", "attn_v.bias"},
                                                 {"self_attn.out_proj.bias", "attn_output.bias"},
                                                 {"final_layer_norm.weight", "ffn_norm.weight"},
                                                 {"final_layer_norm.bias", "ffn_norm.bias"},
                                                 {"fc2.bias", "ffn_down.bias"}}};
// Matrices [hidden_size, hidden_size] of a layer.
constexpr std::array<Name, 4> kAttentionMatrices = {{{"self_attn.q_proj.weight", "attn_q.weight"},
                                                     {"self_attn.k_proj.weight", "attn_k.weight"},
                                                     {"self_attn.v_proj.weight", "attn_v.weight"},
                                                     {"self_attn.out_proj.weight", "attn_output.weight"}}};

std::string LayerSource(uint32_t layer, const char* part) { return fmt::format("layers.{}.{}", layer, part); }

class Planner {
 public:
  Planner(Checkpoint& checkpoint, std::optional<DType> type)
      : checkpoint_(checkpoint), config_(checkpoint.config()), type_(type) {}

  // Vectors come first: an engine reads all of them when it opens. Then what a token needs, in the order in
  // which it needs it, so that a pass over the file is sequential.
  Result<PackPlan> Run(uint32_t align_bytes) {
    FRUGAL_TRY(CheckBlocks());
    FRUGAL_TRY(AddVectors());
    FRUGAL_TRY(
        AddMatrix("embed_tokens.weight", "token_embd.weight", config_.vocab_size, config_.embedding_size));
    FRUGAL_TRY(AddPositions());
    if (config_.has_output_matrix) {
      const std::array shape = {uint64_t{config_.vocab_size}, uint64_t{config_.embedding_size}};
      FRUGAL_ASSIGN(const TensorInfo* source, checkpoint_.RequireTop("lm_head.weight", shape));
      Add(Kind::kPlain, "output.weight", *source, MatrixType(*source));
    }
    if (config_.has_projections()) {
      FRUGAL_TRY(
          AddMatrix("project_in.weight", "project_in.weight", config_.hidden_size, config_.embedding_size));
    }
    for (uint32_t layer = 0; layer < config_.num_layers; ++layer) FRUGAL_TRY(AddLayer(layer, align_bytes));
    if (config_.has_projections()) {
      FRUGAL_TRY(
          AddMatrix("project_out.weight", "project_out.weight", config_.embedding_size, config_.hidden_size));
    }
    for (uint32_t layer = 0; layer < config_.num_layers; ++layer) AddOrder(layer);
    return std::move(plan_);
  }

 private:
  DType MatrixType(const TensorInfo& source) const { return type_.value_or(source.dtype); }

  PlannedTensor& Add(Kind kind, std::string name, const TensorInfo& source, DType dtype) {
    PlannedTensor tensor;
    tensor.kind = kind;
    tensor.name = std::move(name);
    tensor.source = &source;
    tensor.dtype = dtype;
    tensor.shape = source.shape;
    plan_.num_parameters += source.rows() * source.columns();
    plan_.source_bytes += source.extent.size_bytes;
    plan_.num_hashes += NumHashChunks(source.rows() * *RowBytes(dtype, source.columns()));
    plan_.tensors.push_back(std::move(tensor));
    return plan_.tensors.back();
  }

  Status AddVector(Kind kind, const std::string& from, const std::string& to, uint64_t size, uint32_t layer) {
    FRUGAL_ASSIGN(const TensorInfo* source, checkpoint_.Require(from, std::array{size}));
    Add(kind, to, *source, source->dtype).layer = layer;
    return {};
  }

  Status AddVectors() {
    if (config_.has_final_norm) {
      for (const std::string part : {"weight", "bias"}) {
        FRUGAL_TRY(AddVector(Kind::kPlain, "final_layer_norm." + part, "output_norm." + part,
                             config_.hidden_size, 0));
      }
    }
    for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
      for (const Name& name : kHiddenVectors) {
        FRUGAL_TRY(AddVector(Kind::kPlain, LayerSource(layer, name.source),
                             LayerTensorName(layer, name.packed), config_.hidden_size, layer));
      }
      FRUGAL_TRY(AddVector(Kind::kUpBias, LayerSource(layer, "fc1.bias"),
                           LayerTensorName(layer, "ffn_up.bias"), config_.ffn_size, layer));
    }
    return {};
  }

  Status AddMatrix(const std::string& from, const std::string& to, uint64_t rows, uint64_t columns) {
    FRUGAL_ASSIGN(const TensorInfo* source, checkpoint_.Require(from, std::array{rows, columns}));
    Add(Kind::kPlain, to, *source, MatrixType(*source));
    return {};
  }

  Status CheckBlocks() const {
    if (!type_ || !IsQuantised(*type_)) return {};
    for (const auto& [name, size] : {std::pair{"hidden_size", config_.hidden_size},
                                     std::pair{"word_embed_proj_dim", config_.embedding_size}}) {
      if (size % kQuantisedBlock == 0) continue;
      return MakeError(ErrorCode::kUsage,
                       "type of the weights: {} has quantised blocks of {}, but the model's {} is {}, no multiple of it",
                       DTypeName(*type_), kQuantisedBlock, name, size);
    }
    return {};
  }

  Status AddPositions() {
    const std::array shape = {uint64_t{config_.max_context} + config_.position_offset, uint64_t{config_.hidden_size}};
    FRUGAL_ASSIGN(const TensorInfo* source, checkpoint_.Require("embed_positions.weight", shape));
    const DType dtype = MatrixType(*source);
    Add(Kind::kPlain, "position_embd.weight", *source, IsQuantised(dtype) ? source->dtype : dtype);
    return {};
  }

  Status AddLayer(uint32_t layer, uint32_t align_bytes) {
    for (const Name& name : kAttentionMatrices) {
      FRUGAL_TRY(AddMatrix(LayerSource(layer, name.source), LayerTensorName(layer, name.packed),
                           config_.hidden_size, config_.hidden_size));
    }
    const uint64_t hidden_size = config_.hidden_size;
    const uint64_t ffn_size = config_.ffn_size;
    FRUGAL_ASSIGN(const TensorInfo* up,
                  checkpoint_.Require(LayerSource(layer, "fc1.weight"), std::array{ffn_size, hidden_size}));
    FRUGAL_ASSIGN(const TensorInfo* down,
                  checkpoint_.Require(LayerSource(layer, "fc2.weight"), std::array{hidden_size, ffn_size}));
    if (layer == 0) {
      plan_.up_type = MatrixType(*up);
      plan_.down_type = MatrixType(*down);
      plan_.down_offset_bytes = *RowBytes(plan_.up_type, hidden_size);
      if (IsQuantised(plan_.down_type)) plan_.wide_down_bytes = hidden_size * sizeof(float);
      plan_.stride_bytes =
          BundleStrideBytes(plan_.down_offset_bytes + *RowBytes(plan_.down_type, hidden_size), align_bytes);
    } else if (MatrixType(*up) != plan_.up_type || MatrixType(*down) != plan_.down_type) {
      return BadModel(
          "{}: {} and fc2.weight are {} and {}, those of layer 0 {} and {}: one type has to be chosen for "
          "all",
          checkpoint_.PathOf(*up), up->name, DTypeName(up->dtype), DTypeName(down->dtype),
          DTypeName(plan_.up_type), DTypeName(plan_.down_type));
    }
    PlannedTensor bundles;
    bundles.kind = Kind::kBundles;
    bundles.name = BundleTensorName(layer);
    bundles.source = up;
    bundles.down = down;
    bundles.dtype = plan_.up_type;
    bundles.shape = {ffn_size, plan_.stride_bytes};
    bundles.layer = layer;
    plan_.num_parameters += 2 * hidden_size * ffn_size;
    plan_.source_bytes += up->extent.size_bytes + down->extent.size_bytes;
    plan_.num_hashes += ffn_size;
    plan_.tensors.push_back(std::move(bundles));
    return {};
  }

  void AddOrder(uint32_t layer) {
    PlannedTensor order;
    order.kind = Kind::kOrder;
    order.name = BundleOrderName(layer);
    order.dtype = DType::kI32;
    order.shape = {config_.ffn_size};
    order.layer = layer;
    plan_.num_hashes += NumHashChunks(uint64_t{config_.ffn_size} * sizeof(int32_t));
    plan_.tensors.push_back(std::move(order));
  }

  Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const std::optional<DType> type_;
  PackPlan plan_;
};

// Stack, heap of the libraries, tables of the headers, kernel memory: measured 5 MiB with OPT-6.7B's headers.
constexpr uint64_t kProcessBytes = 12 * kMiB;
// The transposition writes a bundle in runs of as many elements as rows of fc2 fit a buffer: 512 bytes for
// OPT-6.7B, whose rows have 32 KiB.
constexpr uint64_t kMaxStagingBytes = 8 * kMiB;
constexpr uint64_t kMinStagingBytes = 256 * kKiB;
// Every panel reads fc2 again, in runs as short as its columns: time grows with their number.
constexpr uint64_t kMaxPanels = 64;

}  // namespace

Result<PackPlan> PlanPack(Checkpoint& checkpoint, std::optional<DType> type, uint32_t align_bytes) {
  return Planner(checkpoint, type).Run(align_bytes);
}

Result<PackMemory> PlanPackMemory(const PackPlan& plan, const ModelConfig& config, uint64_t tokenizer_bytes,
                                  uint64_t orders_bytes, uint64_t ram_bytes) {
  const uint64_t ffn_size = config.ffn_size;
  PackMemory memory;
  memory.ledger.Add("process", kProcessBytes, "code, stack, headers");
  memory.ledger.Add("tokenizer", tokenizer_bytes, "while it is read and written");
  memory.ledger.Add("hashes", HashedGgufWriter::MemoryBytes(plan.num_hashes), "written last");
  memory.ledger.Add("order", orders_bytes + 3 * ffn_size * sizeof(uint32_t),
                    "of the layers, where given; of one layer, its inverse, its biases");
  const uint64_t fixed_bytes = memory.ledger.total_bytes();
  // A staging buffer holds a row of fc2, and a layer's biases.
  const uint64_t min_staging_bytes = std::max(kMinStagingBytes, RoundUp(ffn_size * sizeof(float), 4096));
  const uint64_t min_positions = (ffn_size + kMaxPanels - 1) / kMaxPanels;
  const uint64_t position_bytes = plan.stride_bytes + plan.wide_down_bytes;
  const uint64_t smallest_bytes = fixed_bytes + 2 * min_staging_bytes + min_positions * position_bytes;
  if (smallest_bytes > ram_bytes) {
    const uint64_t in_mib = (smallest_bytes + kMiB - 1) / kMiB;
    return MakeError(ErrorCode::kDoesNotFit,
                     "packing needs at least {} of RAM, but the budget is {}; the smallest that works is "
                     "--ram {}M",
                     FormatSize(smallest_bytes), FormatSize(ram_bytes), in_mib);
  }
  const uint64_t left_bytes = ram_bytes - fixed_bytes;
  memory.staging_bytes = std::clamp(RoundDown(left_bytes / 8, 4096), min_staging_bytes,
                                    std::max(kMaxStagingBytes, min_staging_bytes));
  // Where an eighth is too much for the smallest panel, the panel goes first.
  const uint64_t for_staging = (left_bytes - min_positions * position_bytes) / 2;
  memory.staging_bytes =
      std::min(memory.staging_bytes, std::max(RoundDown(for_staging, 4096), min_staging_bytes));
  const uint64_t most_positions =
      std::min((left_bytes - 2 * memory.staging_bytes) / position_bytes, ffn_size);
  const uint64_t num_panels = (ffn_size + most_positions - 1) / most_positions;
  memory.panel_positions = (ffn_size + num_panels - 1) / num_panels;
  memory.ledger.Add("staging", 2 * memory.staging_bytes, "what is read, and what is converted");
  memory.ledger.Add("panel", memory.panel_positions * position_bytes,
                    fmt::format("{} of {} bundles of a layer", memory.panel_positions, ffn_size));
  return memory;
}

}  // namespace frugal
