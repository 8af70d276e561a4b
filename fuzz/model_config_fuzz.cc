// Any bytes as a config.json, or as the header of a model's GGUF: refused with a message, or a config whose sizes and tensors fit each
// other.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "src/base/check.h"
#include "src/format/json_file.h"
#include "src/format/neuron_activity.h"
#include "src/model/model_file.h"

namespace {

void CheckConfig(const frugal::ModelConfig& config) {
  CHECK(config.num_heads % config.num_kv_heads == 0 && config.rope.dims <= config.head_dim);
  CHECK(std::isfinite(config.attention_scale) && std::isfinite(config.embedding_scale));
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) static_cast<void>(config.window(layer));
  CHECK(frugal::RopeFrequencies(config.rope).size() == config.rope.dims / 2);
  CHECK(frugal::ParseActivation(frugal::ActivationName(config.activation)) == config.activation);
}

void CheckError(const frugal::Error& error) {
  CHECK(error.code == frugal::ErrorCode::kBadModel);
  CHECK(error.message.size() < 4000);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (!text.starts_with("GGUF")) {
    const auto json = frugal::ParseJson(text, "config.json");
    if (!json) return 0;
    const auto config = frugal::ParseHuggingFaceConfig(*json, "config.json");
    config ? CheckConfig(*config) : CheckError(config.error());
    return 0;
  }
  auto reader = frugal::GgufReader::Open(frugal::MakeMemorySource("fuzz.gguf", std::as_bytes(std::span(data, size))));
  if (!reader) return 0;
  if (const auto activity = frugal::ReadActivityKeys(*reader, 2); !activity) CheckError(activity.error());
  const auto model = frugal::ModelFile::FromReader(std::move(*reader), "fuzz.gguf");
  if (!model) {
    CheckError(model.error());
    return 0;
  }
  CheckConfig(model->config());
  for (const frugal::MatrixInfo& matrix : model->matrices()) {
    CHECK(matrix.extent.end_bytes() <= size && matrix.extent.size_bytes == matrix.rows * matrix.row_bytes);
  }
  return 0;
}
