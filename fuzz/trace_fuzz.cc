// Any bytes as an access trace: refused with a message, or read with every bundle inside its layer. The hash
// at its end would keep all but its own corpus out, so that it is put right first.
#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "src/base/check.h"
#include "src/cache/access_trace.h"
#include "src/cache/simulation.h"

using frugal::AccessTrace;
using frugal::Result;

namespace {

constexpr size_t kEndBytes = 17;
constexpr uint32_t kMostBundles = 1 << 16;  // simulations of more would only be slow

void Check(std::span<const std::byte> bytes) {
  const Result<AccessTrace> trace = AccessTrace::Parse(bytes, "fuzz.trace");
  if (!trace) {
    CHECK(trace.error().code == frugal::ErrorCode::kBadModel);
    CHECK(trace.error().message.size() < 500);
    return;
  }
  const frugal::TraceHeader& header = trace->header();
  for (size_t token = 0; token < trace->num_tokens(); ++token) {
    for (uint32_t layer = 0; layer < header.num_layers; ++layer) {
      uint64_t least = uint64_t{layer} * header.ffn_size;
      for (const uint32_t bundle : trace->Set(token, layer)) {
        CHECK(bundle >= least && bundle < (uint64_t{layer} + 1) * header.ffn_size);
        least = uint64_t{bundle} + 1;
      }
    }
  }
  if (header.num_bundles() > kMostBundles) return;
  const frugal::SimulationOptions options = {header.num_bundles() / 4, trace->num_tokens() / 2};
  const uint64_t best = SimulateOptimum(*trace, {options.num_slots, 0}).num_misses;
  CHECK(best <= SimulatePolicy(*trace, {frugal::PolicyKind::kLru, 0, 0}, {options.num_slots, 0}).num_misses);
  CHECK(SimulatePinned(*trace, options).num_misses <= trace->num_uses());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  Check(bytes);
  if (size < kEndBytes) return 0;
  std::vector<std::byte> hashed(bytes.begin(), bytes.end());
  hashed[size - kEndBytes] = std::byte{0};
  const uint64_t hash = XXH3_64bits(hashed.data(), size - kEndBytes);
  std::memcpy(hashed.data() + size - sizeof(hash), &hash, sizeof(hash));
  Check(hashed);
  return 0;
}
