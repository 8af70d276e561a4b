// A GGUF file as a TensorSource.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/format/gguf_reader.h"
#include "src/format/tensor_source.h"

namespace frugal {

class GgufSource : public TensorSource {
 public:
  GgufSource(GgufReader gguf, std::string path) : gguf_(std::move(gguf)), file_paths_{std::move(path)} {}

  const GgufReader& gguf() const { return gguf_; }
  const std::vector<std::string>& file_paths() const override { return file_paths_; }
  const std::vector<TensorInfo>& tensors() const override { return gguf_.tensors(); }
  const TensorInfo* Find(std::string_view name) const override { return gguf_.FindTensor(name); }

 private:
  GgufReader gguf_;
  std::vector<std::string> file_paths_;
};

}  // namespace frugal
