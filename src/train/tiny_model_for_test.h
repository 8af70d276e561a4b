// A small random OPT model, packed, for tests: real enough to run, small enough to train in a second.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "src/base/random.h"
#include "src/format/hashed_gguf_writer.h"
#include "src/format/packed_format.h"
#include "src/kernels/kernels.h"

namespace frugal {

struct TinyModel {
  uint32_t num_layers = 3, hidden_size = 32, embedding_size = 32, ffn_size = 160, num_heads = 2;
  uint32_t vocab_size = 61, max_context = 48;
  float up_bias = -0.6f;  // the lower, the fewer neurons are active
  uint64_t seed = 1;
  bool reversed = false;  // the neuron at position i is said to be the checkpoint's last but i
};

class TinyModelWriter {
 public:
  explicit TinyModelWriter(const TinyModel& model) : model_(model), random_(model.seed) {}

  void Write(const std::string& path) {
    auto opened = HashedGgufWriter::Open(path, Overwrite::kYes);
    ASSERT_TRUE(opened) << opened.error().message;
    writer_ = std::move(*opened);
    AddKeys(writer_->keys());
    const uint64_t hidden = model_.hidden_size;
    for (uint32_t layer = 0; layer < model_.num_layers; ++layer) AddLayer(layer);
    const float embedding_scale = 1.0f;
    Add("token_embd.weight", {model_.vocab_size, model_.embedding_size}, embedding_scale);
    Add("position_embd.weight", {model_.max_context + 2, hidden}, 0.3f);
    if (model_.embedding_size != model_.hidden_size) {
      Add("project_in.weight", {hidden, model_.embedding_size}, 0.3f);
      Add("project_out.weight", {model_.embedding_size, hidden}, 0.3f);
    }
    Add("output_norm.weight", {hidden}, 0.1f, 1.0f);
    Add("output_norm.bias", {hidden}, 0.1f);
    const Status begun = writer_->BeginData();
    ASSERT_TRUE(begun) << begun.error().message;
    for (size_t i = 0; i < data_.size(); ++i) ASSERT_TRUE(writer_->Append(i, data_[i]));
    ASSERT_TRUE(writer_->Finish());
  }
  uint64_t content_hash() const { return writer_->content_hash(); }

 private:
  void AddKeys(GgufWriter& keys) const {
    keys.AddString("general.architecture", "opt");
    keys.AddUint32(kPackedVersionKey, kPackedVersion);
    keys.AddUint32(kBundleStrideKey, static_cast<uint32_t>(stride_bytes()));
    keys.AddString(kBundleLayoutKey, "up+down");
    keys.AddUint32("opt.block_count", model_.num_layers);
    keys.AddUint32("opt.embedding_length", model_.hidden_size);
    keys.AddUint32("opt.word_embedding_length", model_.embedding_size);
    keys.AddUint32("opt.feed_forward_length", model_.ffn_size);
    keys.AddUint32("opt.attention.head_count", model_.num_heads);
    keys.AddUint32("opt.vocab_size", model_.vocab_size);
    keys.AddUint32("opt.context_length", model_.max_context);
    keys.AddFloat32("opt.attention.layer_norm_epsilon", 1e-5f);
    keys.AddBool("opt.pre_norm", true);
    keys.AddBool("opt.final_norm", true);
    keys.AddUint32("tokenizer.ggml.bos_token_id", 2);
    keys.AddUint32("tokenizer.ggml.eos_token_id", 2);
    for (uint32_t layer = 0; layer < model_.num_layers; ++layer)
      keys.AddString(BundleTypesKey(layer), "F16,F16");
  }

  void AddLayer(uint32_t layer) {
    const uint64_t hidden = model_.hidden_size;
    for (const char* part : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
      Add(LayerTensorName(layer, part) + ".weight", {hidden, hidden}, 0.3f);
      Add(LayerTensorName(layer, part) + ".bias", {hidden}, 0.1f);
    }
    for (const char* part : {"attn_norm", "ffn_norm"}) {
      Add(LayerTensorName(layer, part) + ".weight", {hidden}, 0.2f, 1.0f);
      Add(LayerTensorName(layer, part) + ".bias", {hidden}, 0.2f);
    }
    Add(LayerTensorName(layer, "ffn_up.bias"), {model_.ffn_size}, 0.3f, model_.up_bias);
    Add(LayerTensorName(layer, "ffn_down.bias"), {hidden}, 0.1f);
    AddBundles(layer);
    AddOrder(layer);
  }

  void AddOrder(uint32_t layer) {
    writer_->AddTensor(BundleOrderName(layer), DType::kI32, std::array<uint64_t, 1>{model_.ffn_size});
    std::vector<int32_t> order(model_.ffn_size);
    for (uint32_t i = 0; i < model_.ffn_size; ++i)
      order[i] = static_cast<int32_t>(model_.reversed ? model_.ffn_size - 1 - i : i);
    std::vector<std::byte>& bytes = data_.emplace_back(order.size() * sizeof(int32_t));
    std::memcpy(bytes.data(), order.data(), bytes.size());
  }

  // Values of about the size `scale` around `mean`, as F16.
  std::vector<std::byte> Halves(size_t count, float scale, float mean) {
    std::vector<float> values(count);
    for (float& value : values) value = mean + scale * static_cast<float>(random_.Uniform() * 2.0 - 1.0);
    std::vector<std::byte> bytes(count * 2);
    ConvertFromFloat(DType::kF16, values.data(), count, bytes.data());
    return bytes;
  }

  void Add(const std::string& name, std::vector<uint64_t> shape, float scale, float mean = 0.0f) {
    writer_->AddTensor(name, DType::kF16, shape);
    uint64_t count = 1;
    for (const uint64_t dim : shape) count *= dim;
    data_.push_back(Halves(count, scale, mean));
  }

  uint64_t stride_bytes() const { return BundleStrideBytes(uint64_t{model_.hidden_size} * 4, kSectorBytes); }

  void AddBundles(uint32_t layer) {
    writer_->AddBundles(layer, model_.ffn_size, stride_bytes());
    std::vector<std::byte> bytes(model_.ffn_size * stride_bytes());
    for (uint32_t i = 0; i < model_.ffn_size; ++i) {
      const std::vector<std::byte> row = Halves(size_t{model_.hidden_size} * 2, 0.3f, 0.0f);
      std::copy(row.begin(), row.end(), bytes.begin() + static_cast<std::ptrdiff_t>(i * stride_bytes()));
    }
    data_.push_back(std::move(bytes));
  }

  const TinyModel model_;
  Random random_;
  std::unique_ptr<HashedGgufWriter> writer_;
  std::vector<std::vector<std::byte>> data_;  // of each tensor
};

// Writes the model and returns its content hash.
inline uint64_t WriteTinyModel(const TinyModel& model, const std::string& path) {
  TinyModelWriter writer(model);
  writer.Write(path);
  return writer.content_hash();
}

}  // namespace frugal
