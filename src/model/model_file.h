// A model on disk, opened: its config and where every tensor lies, all validated against the config. No weight is read.
// Packed by frugal (docs/packed-model.md draws it), or what runs in place, an ordinary GGUF or a Hugging Face checkpoint: its FFN are
// matrices, nothing in it is aligned to sectors, and it has no hashes, so that its weights cannot be verified.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/base/check.h"
#include "src/format/gguf_reader.h"
#include "src/model/config.h"
#include "src/model/packed_form.h"
#include "src/model/tensor_places.h"
#include "src/tensor/tensor_info.h"

namespace frugal {

// A matrix in RAM or streamed: [rows, columns], row-major. Query, key and value of one tensor (attn_qkv) are three matrices, whose rows may
// lie in runs.
struct MatrixInfo {
  std::string name;
  DType dtype = DType::kF16;
  uint64_t rows = 0, columns = 0;
  uint32_t file_index = 0;
  Extent extent;  // from the first row on, the bytes of all rows; there are others between its runs
  RowRuns runs;
  uint64_t row_bytes = 0;
  uint64_t first_hash = 0;  // index in frugal.tensor_hashes
  bool of_attention = false;

  uint64_t OffsetOfRow(uint64_t row) const { return extent.offset_bytes + runs.OffsetBytes(row, row_bytes); }
};

// Norms, biases: converted to float and kept in RAM in every mode.
struct VectorInfo {
  std::string name;
  DType dtype = DType::kF16;
  uint64_t size = 0;
  uint32_t file_index = 0;
  Extent extent;  // from the first element to the last; others lie between its runs
  RowRuns runs;
  uint64_t first_hash = 0;
  bool lacks_one = false;  // stored as w, and means 1 + w
};

// Those that a model lacks have size 0.
enum class LayerVector {
  kAttnNormWeight,
  kAttnNormBias,
  kQBias,
  kKBias,
  kVBias,
  kOBias,
  kQNormWeight,
  kQNormBias,
  kKNormWeight,
  kKNormBias,
  kPostAttnNormWeight,
  kFfnNormWeight,
  kFfnNormBias,
  kGateBias,
  kUpBias,
  kDownBias,
  kPostFfnNormWeight,
};
constexpr size_t kNumLayerVectors = 17;
enum class GlobalVector { kFinalNormWeight, kFinalNormBias, kOutputBias, kRopeDivisors };
constexpr size_t kNumGlobalVectors = 4;

// The bundles of one layer: ffn_size rows of stride_bytes; the gate's row (bundle3 alone) at 0, up's and down's behind it.
struct BundleInfo {
  std::string name;
  Extent extent;
  DType gate_type = DType::kF16, up_type = DType::kF16, down_type = DType::kF16;
  uint64_t stride_bytes = 0;
  uint64_t up_offset_bytes = 0;    // = bytes of the gate's row; 0 without one
  uint64_t down_offset_bytes = 0;  // = bytes of the rows that the input is multiplied with
  Extent hashes;                   // I64 [ffn_size]
};

constexpr uint32_t kNoMatrix = ~0u;

// Indexes in ModelFile::matrices(); kNoMatrix where a model has none.
struct LayerMatrices {
  uint32_t q = kNoMatrix, k = kNoMatrix, v = kNoMatrix, o = kNoMatrix;
  uint32_t gate = kNoMatrix, up = kNoMatrix, down = kNoMatrix;  // of an FFN without bundles; gate with FfnLayout::kGateAndBundle2 too
  // In the order of the forward pass.
  std::array<uint32_t, 7> in_order() const { return {q, k, v, o, gate, up, down}; }
};
struct MatrixIds {
  uint32_t token_embedding = kNoMatrix, position_embedding = kNoMatrix;
  uint32_t output = kNoMatrix;  // == token_embedding when tied
  uint32_t project_in = kNoMatrix, project_out = kNoMatrix;
};

class ModelFile {
 public:
  // A GGUF, or what IsCheckpointPath (hugging_face.h) takes. kBadModel names the tensor or key that is missing, of a wrong shape or type;
  // kIo when a file cannot be read. `activation` replaces what the file says.
  static Result<ModelFile> Open(const std::string& path, std::optional<Activation> activation = std::nullopt);
  static Result<ModelFile> FromReader(GgufReader reader, std::string path, std::optional<Activation> activation = std::nullopt);
  // The file that packing it would write, for plans alone: its weights are not there. kUsage for a type that its rows cannot have.
  static Result<ModelFile> OpenAsIfPacked(const std::string& path, std::optional<Activation> activation, const PackedForm& form);

  // As the user named it.
  const std::string& path() const { return path_; }
  // The files of weights: MatrixInfo::file_index counts in these. Of packed files one.
  const std::vector<std::string>& file_paths() const { return file_paths_; }
  const ModelConfig& config() const { return config_; }
  // Of packed files and ordinary GGUF.
  const GgufReader& gguf() const {
    CHECK(gguf_.has_value());
    return *gguf_;
  }
  bool is_checkpoint() const { return !gguf_.has_value(); }
  // Where a checkpoint has its config.json and its tokenizer.
  const std::string& checkpoint_directory() const { return checkpoint_directory_; }
  // Of a checkpoint: its tokenizer may know better than config.json.
  void set_end_ids(int32_t bos_id, int32_t eos_id) {
    config_.bos_id = bos_id;
    config_.eos_id = eos_id;
  }
  const std::vector<MatrixInfo>& matrices() const { return matrices_; }
  const MatrixIds& ids() const { return ids_; }
  const LayerMatrices& layer(uint32_t layer) const { return layers_[layer]; }
  const VectorInfo& vector(uint32_t layer, LayerVector which) const {
    return layer_vectors_[layer][static_cast<size_t>(which)];
  }
  const VectorInfo& vector(GlobalVector which) const { return global_vectors_[static_cast<size_t>(which)]; }
  // Of what runs in place: tensors that this architecture does not use, so that it may be another than it says. Worth a warning.
  const std::vector<std::string>& unused_tensors() const { return unused_tensors_; }
  // Written by frugal: its weights have hashes and lie aligned.
  bool is_packed() const { return is_packed_; }
  bool has_bundles() const { return !bundles_.empty(); }
  // kBadModel that names `frugal pack`, for what needs bundles.
  Status RequireBundles() const;
  const std::vector<BundleInfo>& bundles() const { return bundles_; }  // [num_layers], or none
  const Extent& tensor_hashes() const { return tensor_hashes_; }
  const Extent& hash_of_hashes() const { return hash_of_hashes_; }
  // By which a predictor file names its model: XXH3 of frugal.hash_of_hashes, read from the file. kBadModel when it is not packed.
  Result<uint64_t> ReadContentHash() const;

  uint64_t num_hashes() const { return tensor_hashes_.size_bytes / 8; }
  // Bytes of all weights that a token's forward pass uses: matrices (position embedding aside), bundles.
  uint64_t streamable_bytes() const;
  uint64_t ffn_bytes() const;
  uint64_t vector_floats() const;
  uint64_t longest_vector_bytes() const;  // as stored
  // Whether any matrix or up row is quantised: its inputs are quantised too.
  bool has_quantised_rows() const;
  // Whether any is not, of those that inputs are multiplied with.
  bool has_float_rows() const;

 private:
  ModelFile() = default;
  static Result<ModelFile> OpenCheckpoint(const std::string& path, std::optional<Activation> activation);
  Status LoadGguf(std::optional<Activation> activation);
  Status LoadTensors();
  // A matrix of which only rows are used, never a product.
  bool gives_rows_only(uint32_t matrix) const;
  Status CheckPackedKeys() const;
  Status LoadAttention(uint32_t layer);
  Status LoadFfnMatrices(uint32_t layer);
  Status LoadLayerVectors(uint32_t layer);
  Status LoadGlobals();
  Status LoadHashes();
  Status LoadBundles(uint32_t layer);
  // A tensor that only packed files have.
  Result<const TensorInfo*> RequirePacked(const std::string& name) const;
  Result<const TensorPlace*> Require(const std::string& name) const;
  Result<uint32_t> AddMatrix(const std::string& name, uint64_t rows, uint64_t columns);
  Result<VectorInfo> MakeVector(const std::string& name, uint64_t size) const;
  uint64_t FirstHash(const std::string& name) const;
  void ListUnused();
  Result<BundleInfo> BundleOf(uint32_t layer, const PackedForm& form) const;
  Status TakeForm(const PackedForm& form);

  std::optional<GgufReader> gguf_;
  std::string path_, checkpoint_directory_;
  std::vector<std::string> file_paths_;
  TensorPlaces places_;  // empty again when all are found
  bool is_packed_ = false;
  ModelConfig config_;
  std::vector<MatrixInfo> matrices_;
  std::vector<LayerMatrices> layers_;
  MatrixIds ids_;
  std::vector<std::array<VectorInfo, kNumLayerVectors>> layer_vectors_;
  std::array<VectorInfo, kNumGlobalVectors> global_vectors_;
  std::vector<BundleInfo> bundles_;
  std::vector<std::string> unused_tensors_;
  Extent tensor_hashes_;
  Extent hash_of_hashes_;
};

}  // namespace frugal
