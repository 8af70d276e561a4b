// A packed model file, opened: its config and where every tensor lies, all validated against the config. No weight is read.
// docs/packed-model.md draws the file. Immutable.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "src/format/gguf_reader.h"
#include "src/model/config.h"
#include "src/tensor/tensor_info.h"

namespace frugal {

// A matrix in RAM or streamed: [rows, columns], row-major.
struct MatrixInfo {
  std::string name;
  DType dtype = DType::kF16;
  uint64_t rows = 0, columns = 0;
  Extent extent;
  uint64_t row_bytes = 0;
  uint64_t first_hash = 0;  // index in frugal.tensor_hashes
};

// Norms, biases: converted to float and kept in RAM in every mode.
struct VectorInfo {
  std::string name;
  DType dtype = DType::kF16;
  uint64_t size = 0;
  Extent extent;
  uint64_t first_hash = 0;
};

enum class LayerVector { kAttnNormWeight, kAttnNormBias, kQBias, kKBias, kVBias, kOBias, kFfnNormWeight, kFfnNormBias, kUpBias, kDownBias };
constexpr size_t kNumLayerVectors = 10;

// The bundles of one layer: ffn_size rows of stride_bytes; up at 0, down at down_offset_bytes.
struct BundleInfo {
  std::string name;
  Extent extent;
  DType up_type = DType::kF16, down_type = DType::kF16;
  uint64_t stride_bytes = 0;
  uint64_t down_offset_bytes = 0;  // = bytes of the up row
  Extent hashes;                   // I64 [ffn_size]
};

// Matrices are numbered: 4 a layer (q, k, v, o), then the global ones.
struct MatrixIds {
  uint32_t token_embedding = 0, position_embedding = 0, output = 0;  // output == token_embedding when tied
  uint32_t project_in = 0, project_out = 0;                          // kNoMatrix when absent
};
constexpr uint32_t kNoMatrix = ~0u;

class ModelFile {
 public:
  // kBadModel names the tensor or key that is missing, of a wrong shape or type; kIo when the file cannot be read.
  static Result<ModelFile> Open(const std::string& path);
  static Result<ModelFile> FromReader(GgufReader reader, std::string path);

  const std::string& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  const GgufReader& gguf() const { return gguf_; }
  const std::vector<MatrixInfo>& matrices() const { return matrices_; }
  const MatrixIds& ids() const { return ids_; }
  static uint32_t QId(uint32_t layer) { return layer * 4; }
  static uint32_t KId(uint32_t layer) { return layer * 4 + 1; }
  static uint32_t VId(uint32_t layer) { return layer * 4 + 2; }
  static uint32_t OId(uint32_t layer) { return layer * 4 + 3; }
  const VectorInfo& vector(uint32_t layer, LayerVector which) const {
    return layer_vectors_[layer][static_cast<size_t>(which)];
  }
  // The final norm's weight and bias; empty names when the model has none.
  const std::array<VectorInfo, 2>& final_norm() const { return final_norm_; }
  const std::vector<BundleInfo>& bundles() const { return bundles_; }  // [num_layers]
  const Extent& tensor_hashes() const { return tensor_hashes_; }
  const Extent& hash_of_hashes() const { return hash_of_hashes_; }
  // By which a predictor file names its model: XXH3 of frugal.hash_of_hashes, read from the file.
  Result<uint64_t> ReadContentHash() const;

  uint64_t num_hashes() const { return tensor_hashes_.size_bytes / 8; }
  // Bytes of all weights that a token's forward pass uses: matrices (position embedding aside), bundles.
  uint64_t streamable_bytes() const;
  uint64_t ffn_bytes() const;
  uint64_t vector_floats() const;
  // Whether any matrix or up row is quantised: its inputs are quantised too.
  bool has_quantised_rows() const;

 private:
  explicit ModelFile(GgufReader gguf) : gguf_(std::move(gguf)) {}
  Status Load();
  Status LoadLayer(uint32_t layer);
  Status LoadBundles(uint32_t layer);
  Result<const TensorInfo*> Require(const std::string& name) const;
  Result<uint32_t> AddMatrix(const std::string& name, uint64_t rows, uint64_t columns);
  Result<VectorInfo> MakeVector(const std::string& name, uint64_t size) const;
  uint64_t FirstHash(const TensorInfo& info) const;

  GgufReader gguf_;
  std::string path_;
  ModelConfig config_;
  std::vector<MatrixInfo> matrices_;
  MatrixIds ids_;
  std::vector<std::array<VectorInfo, kNumLayerVectors>> layer_vectors_;
  std::array<VectorInfo, 2> final_norm_;
  std::vector<BundleInfo> bundles_;
  Extent tensor_hashes_;
  Extent hash_of_hashes_;
};

}  // namespace frugal
