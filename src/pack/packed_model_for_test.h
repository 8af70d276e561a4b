// The tensors of a GGUF file as numbers, under llama.cpp's names, whether it is packed or not: what a test compares.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "src/base/temp_dir_for_test.h"
#include "src/format/gguf_reader.h"
#include "src/format/packed_format.h"
#include "src/format/pytorch_checkpoint.h"
#include "src/format/safetensors.h"
#include "src/format/tensor_source.h"
#include "src/kernels/kernels.h"
#include "src/model/config.h"
#include "src/pack/bundle_types.h"

namespace frugal {

// A checkpoint of tests/data/models, or of the shared folder beside the project; empty when neither has it.
inline std::string FindModelDir(const std::string& name) {
  for (const std::string& folder :
       {std::string(FRUGAL_SOURCE_DIR) + "/tests/data/models/", std::string(FRUGAL_SOURCE_DIR) + "/../shared/models/"}) {
    const std::string directory = folder + name;
    if (HasShards(directory, kSafetensorsFileName) || HasShards(directory, kPytorchFileName)) return directory;
  }
  return "";
}

inline std::vector<float> FloatsForTest(const TensorInfo& info, const std::string& file) {
  std::vector<float> values(info.rows() * info.columns());
  ConvertToFloat(info.dtype, reinterpret_cast<const std::byte*>(file.data()) + info.extent.offset_bytes, values.size(),
                 values.data());
  return values;
}

class GgufForTest {
 public:
  explicit GgufForTest(const std::string& path) : file_(ReadAllForTest(path)) {
    auto source = OpenFileSource(path);
    EXPECT_TRUE(source.has_value());
    auto reader = GgufReader::Open(*std::move(source));
    EXPECT_TRUE(reader.has_value()) << reader.error().message;
    reader_ = std::make_unique<GgufReader>(*std::move(reader));
    auto config = ReadGgufConfig(*reader_);
    EXPECT_TRUE(config.has_value()) << config.error().message;
    config_ = *std::move(config);
    for (const TensorInfo& info : reader_->tensors()) Add(info);
  }

  const GgufReader& reader() const { return *reader_; }
  const ModelConfig& config() const { return config_; }
  const std::string& file() const { return file_; }
  // Bundles are taken apart into ffn_gate, ffn_up and ffn_down, in the order of the positions.
  const std::map<std::string, std::vector<float>>& tensors() const { return tensors_; }
  const std::vector<float>& operator[](const std::string& name) const {
    const auto found = tensors_.find(name);
    EXPECT_NE(found, tensors_.end()) << name;
    static const std::vector<float> none;
    return found == tensors_.end() ? none : found->second;
  }

 private:
  void Add(const TensorInfo& info) {
    if (info.name.ends_with(".ffn_bundle.weight")) return AddBundles(info);
    if (!IsWeightType(info.dtype)) return;
    tensors_[info.name] = FloatsForTest(info, file_);
  }

  void AddBundles(const TensorInfo& info) {
    const std::string layer = info.name.substr(0, info.name.rfind(".ffn_bundle"));
    const auto parts = ReadBundleParts(*reader_, static_cast<uint32_t>(std::stoul(layer.substr(4))), config_);
    ASSERT_TRUE(parts.has_value()) << parts.error().message;
    const uint64_t hidden_size = config_.hidden_size, ffn_size = info.rows();
    for (const BundlePart& part : *parts) {
      std::vector<float> rows(ffn_size * hidden_size);
      for (uint64_t i = 0; i < ffn_size; ++i) {
        ConvertToFloat(part.dtype,
                       reinterpret_cast<const std::byte*>(file_.data()) + info.extent.offset_bytes + i * info.columns() +
                           part.offset_bytes,
                       hidden_size, rows.data() + i * hidden_size);
      }
      if (std::string(part.name) == "down") {
        std::vector<float> turned(rows.size());
        for (uint64_t i = 0; i < ffn_size; ++i) {
          for (uint64_t k = 0; k < hidden_size; ++k) turned[k * ffn_size + i] = rows[i * hidden_size + k];
        }
        rows = std::move(turned);
      }
      tensors_[layer + ".ffn_" + part.name + ".weight"] = std::move(rows);
    }
  }

  std::string file_;
  std::unique_ptr<GgufReader> reader_;
  ModelConfig config_;
  std::map<std::string, std::vector<float>> tensors_;
};

}  // namespace frugal
