// Writes a packed model of a given shape with random weights whose activity is that of a trained one: the
// shares of active, predicted and newly loaded neurons of a model in "LLM in a flash" (sections 3.1 and 4).
// The engine cannot tell it from any other packed model; its text is noise.
//
// How it works. The position embedding wanders slowly from position to position, the token embedding is
// another one for each token: the residual stream is a mixture of both, and what the blocks add to it is too
// small to change that. A model that learns no positions has the slow part in its token embeddings, from id
// to id, and its text is the vocabulary in its order. So every layer's normalised input is Gaussian with a known
// correlation in time, and synthetic_layer.h can give it neurons that fire as wanted.
//
// A library: it prints nothing. The output appears under its name only when it is complete. One thread calls.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/function_ref.h"
#include "src/base/result.h"
#include "src/base/thread_pool.h"
#include "src/format/output_file.h"
#include "src/model/config.h"
#include "src/pack/synthetic_layer.h"
#include "src/pack/synthetic_shape.h"
#include "src/tensor/dtype.h"

namespace frugal {

class HashedGgufWriter;

struct SyntheticOptions {
  ModelConfig config;
  SyntheticActivity activity;
  std::string name;  // general.name
  std::string output_path;
  DType type = DType::kF16;  // of matrices and bundles; a weight type
  uint64_t seed = 1;
  bool holes = false;  // matrices and bundles are zeros that take no disk: enough for a plan
  Overwrite overwrite = Overwrite::kNo;
  const std::atomic<bool>* cancel = nullptr;  // when it becomes true, Write ends with kFailed "interrupted"
};

struct SyntheticReport {
  uint64_t file_bytes = 0;
  uint64_t num_parameters = 0;
  uint64_t stride_bytes = 0;
  uint64_t content_hash = 0;
  uint64_t elapsed_ns = 0;
  std::vector<SyntheticLayerQuality> layers;
};

class SyntheticModel {
 public:
  // kUsage: the type, or a shape that is too small. `pool` outlives this. Takes about 100 MiB, whatever the
  // model's size.
  static Result<std::unique_ptr<SyntheticModel>> Create(const SyntheticOptions& options, ThreadPool& pool);
  ~SyntheticModel();

  // Token ids of the text for which the activity is as promised; at most the context. // [num_tokens]
  const std::vector<int32_t>& tokens() const { return tokens_; }
  // What every layer's FFN sees of these tokens, as far as layers are fitted on it. // [num_inputs, hidden_size]
  std::span<const float> inputs() const { return inputs_; }
  // Size of the file that Write makes, up to its header.
  uint64_t DataBytes() const;

  // Writes the packed model. `progress` as Pack has it. kIo with the needed and the free bytes when the disk
  // is too small, before anything is written.
  Result<SyntheticReport> Write(FunctionRef<void(double share, std::string_view what)> progress);
  // The layer as it is in the file, with its predictor; made anew at every call.
  SyntheticLayer Layer(uint32_t layer);

 private:
  struct Tensor;
  SyntheticModel(const SyntheticOptions& options, ThreadPool& pool);
  void ListTensors();
  void AddVector(std::string name, uint64_t size, float value);
  void AddMatrix(std::string name, uint64_t rows, float scale);
  void AddNorm(const std::string& name, uint64_t size, float value, bool has_bias);
  void AddLayerVectors(uint32_t layer);
  void AddLayerMatrices(uint32_t layer);
  void MakeInputs();
  Status WriteTensor(HashedGgufWriter& writer, size_t index);
  Status WriteMatrix(HashedGgufWriter& writer, size_t index, const Tensor& tensor);
  Status WriteWalk(HashedGgufWriter& writer, size_t index, const Tensor& tensor);
  Status WriteBundles(HashedGgufWriter& writer, size_t index, const Tensor& tensor);
  Status WriteRows(HashedGgufWriter& writer, size_t index, uint64_t num_rows, uint64_t row_bytes,
                   FunctionRef<void(uint64_t row, int worker, std::byte* out)> make);
  Status Advance(uint64_t bytes);
  bool all_have_biases() const;
  uint64_t num_parts() const { return config_.gated ? 3 : 2; }  // rows of a bundle
  // Parts of the embeddings, as floats. // out [hidden_size]
  void AddFastPart(uint64_t token, float* out) const;
  void NextSlowPart(uint64_t row, float* state) const;

  const SyntheticOptions options_;
  const ModelConfig& config_;
  ThreadPool& pool_;
  NoisePool embedding_noise_, weight_noise_;
  uint64_t row_bytes_ = 0, stride_bytes_ = 0;
  std::vector<Tensor> tensors_;
  std::vector<int32_t> tokens_;
  std::vector<float> inputs_;  // [kFitTokens, hidden_size]: of every layer's FFN, normalised
  std::vector<std::byte> panel_;
  std::vector<SyntheticLayerQuality> qualities_;  // of the layers written so far
  std::vector<float> scratch_;                    // [num_threads, hidden_size]
  FunctionRef<void(double share, std::string_view what)>* progress_ = nullptr;
  std::string what_;
  uint64_t done_bytes_ = 0, file_bytes_ = 0;
};

}  // namespace frugal
