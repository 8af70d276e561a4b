#include "tests/header_only_model.h"

#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>

#include "src/format/packed_format.h"
#include "src/pack/model_keys.h"

namespace frugal::testing {
namespace {

class HeaderMaker {
 public:
  HeaderMaker(const ModelConfig& config, DType type, GgufWriter& writer) : config_(config), type_(type), writer_(writer) {}

  void Add() {
    const uint64_t row_bytes = *RowBytes(type_, config_.hidden_size);
    const bool gate_in_bundle = config_.ffn_layout == FfnLayout::kBundle3;
    const uint64_t stride_bytes = BundleStrideBytes((gate_in_bundle ? 3 : 2) * row_bytes, 512);
    writer_.AddUint32(kHashChunkKey, kHashChunkBytes);
    const std::optional<DType> gate_type = gate_in_bundle ? std::optional(type_) : std::nullopt;
    AddModelKeys(config_, {"header-only", config_.ffn_layout, gate_type, type_, type_, stride_bytes, type_}, writer_);
    AddNorm("output_norm");
    if (config_.architecture == Architecture::kPhi2) AddVector("output.bias", config_.vocab_size);
    for (uint32_t layer = 0; layer < config_.num_layers; ++layer) AddLayerVectors(layer);
    AddMatrix("token_embd.weight", config_.vocab_size);
    if (config_.has_output_matrix) AddMatrix("output.weight", config_.vocab_size);
    for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
      AddMatrix(LayerTensorName(layer, "attn_q.weight"), config_.query_size());
      for (const char* part : {"attn_k.weight", "attn_v.weight"}) AddMatrix(LayerTensorName(layer, part), config_.kv_size());
      AddMatrix(LayerTensorName(layer, "attn_output.weight"), config_.hidden_size);
      if (config_.ffn_layout == FfnLayout::kGateAndBundle2) AddMatrix(LayerTensorName(layer, "ffn_gate.weight"), config_.ffn_size);
      writer_.AddTensor(BundleTensorName(layer), DType::kI8, std::array{uint64_t{config_.ffn_size}, stride_bytes});
    }
    const std::array ffn_shape = {uint64_t{config_.ffn_size}};
    for (uint32_t layer = 0; layer < config_.num_layers; ++layer) AddHashed(BundleOrderName(layer), DType::kI32, ffn_shape);
    for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
      writer_.AddTensor(BundleHashesName(layer), DType::kI64, ffn_shape);
    }
    writer_.AddTensor(kTensorHashesName, DType::kI64, std::array{num_hashes_});
    writer_.AddTensor(kHashOfHashesName, DType::kI64, std::array{uint64_t{config_.num_layers} + 2});
  }

 private:
  void AddHashed(const std::string& name, DType type, std::span<const uint64_t> shape) {
    uint64_t elements = 1;
    for (const uint64_t size : shape) elements *= size;
    num_hashes_ += NumHashChunks(*RowBytes(type, elements));
    writer_.AddTensor(name, type, shape);
  }
  void AddVector(const std::string& name, uint64_t size) { AddHashed(name, DType::kF32, std::array{size}); }
  void AddMatrix(const std::string& name, uint64_t rows) { AddHashed(name, type_, std::array{rows, uint64_t{config_.hidden_size}}); }
  void AddNorm(const std::string& name) {
    AddVector(name + ".weight", config_.hidden_size);
    if (config_.norm == NormKind::kLayer) AddVector(name + ".bias", config_.hidden_size);
  }
  void AddLayerVectors(uint32_t layer) {
    AddNorm(LayerTensorName(layer, "attn_norm"));
    if (config_.has_ffn_norm) AddNorm(LayerTensorName(layer, "ffn_norm"));
    if (config_.architecture != Architecture::kPhi2) return;
    AddVector(LayerTensorName(layer, "attn_q.bias"), config_.query_size());
    for (const char* part : {"attn_k.bias", "attn_v.bias"}) AddVector(LayerTensorName(layer, part), config_.kv_size());
    for (const char* part : {"attn_output.bias", "ffn_down.bias"}) AddVector(LayerTensorName(layer, part), config_.hidden_size);
    AddVector(LayerTensorName(layer, "ffn_up.bias"), config_.ffn_size);
  }

  const ModelConfig& config_;
  const DType type_;
  GgufWriter& writer_;
  uint64_t num_hashes_ = 0;
};

}  // namespace

void WriteHeaderOnlyModel(const ModelConfig& config, DType type, const std::string& path) {
  std::string header;
  uint64_t file_bytes = 0;
  {
    Result<std::unique_ptr<GgufWriter>> writer = GgufWriter::Open(path, Overwrite::kYes);
    ASSERT_TRUE(writer) << writer.error().message;
    HeaderMaker(config, type, **writer).Add();
    header = (*writer)->HeaderBytes();
    file_bytes = (*writer)->file_bytes();
  }  // what was begun is taken away again
  std::ofstream(path, std::ios::binary) << header;
  std::filesystem::resize_file(path, file_bytes);
}

}  // namespace frugal::testing
