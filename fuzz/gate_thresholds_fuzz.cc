// Any bytes as the header of a file of `train --sparsify`: refused with a message, or keys whose values can be used.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "src/base/check.h"
#include "src/format/byte_source.h"
#include "src/format/gate_thresholds.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto reader = frugal::GgufReader::Open(frugal::MakeMemorySource("fuzz.gguf", std::as_bytes(std::span(data, size))));
  if (!reader) return 0;
  const auto read = frugal::ReadGateThresholdKeys(*reader);
  if (!read) {
    CHECK(read.error().code == frugal::ErrorCode::kBadModel);
    CHECK(read.error().message.size() < 4000);
    return 0;
  }
  CHECK(read->share >= 0.0f && read->share < 1.0f && read->measured_share >= 0.0f && read->measured_share < 1.0f);
  CHECK(read->effect.before >= 0 && std::isfinite(read->effect.after));
  CHECK(!frugal::DescribeThresholds(*read).empty());
  return 0;
}
