// The bundles that each token of a run demanded, layer by layer, in a compact file (docs/trace.md draws it):
// what eviction policies are compared on (simulation.h). It says nothing of hits or misses, so that it is the
// same for every cache size. Engine thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "src/base/result.h"

struct XXH3_state_s;

namespace frugal {

struct TraceHeader {
  uint64_t model_content_hash = 0;
  uint32_t num_layers = 0;
  uint32_t ffn_size = 0;  // bundles of a layer

  uint32_t num_bundles() const { return num_layers * ffn_size; }
};

class AccessTraceWriter {
 public:
  // Takes the next bytes of the file.
  using Sink = std::function<Status(std::span<const std::byte> bytes)>;
  static constexpr size_t kBufferBytes = 256 * 1024;

  AccessTraceWriter(const TraceHeader& header, Sink sink);
  ~AccessTraceWriter();
  AccessTraceWriter(const AccessTraceWriter&) = delete;
  AccessTraceWriter& operator=(const AccessTraceWriter&) = delete;

  // The sets of a layer, a bit for each bundle: active [num_tokens, words of ffn_size]. Layers in order from 0;
  // the same num_tokens in all layers of a step. The sink's error; after one, every call repeats it.
  Status NoteLayer(uint32_t layer, std::span<const uint64_t> active, uint32_t num_tokens);
  // Writes the end mark and what is buffered. Without it the file is refused as incomplete.
  Status Finish();
  uint64_t num_tokens() const { return num_tokens_; }

  // What it allocates for steps of that many tokens.
  static uint64_t MemoryBytes(const TraceHeader& header, uint32_t max_tokens);

 private:
  void PutVarint(uint64_t value);
  void PutSet(const uint64_t* words);
  Status Flush();

  const TraceHeader header_;
  const Sink sink_;
  XXH3_state_s* hash_;  // of all bytes before the end mark
  const size_t words_;
  std::vector<std::byte> buffer_;
  std::vector<uint64_t> sets_;  // of the step so far // [num_tokens, num_layers, words]
  uint64_t num_tokens_ = 0;
  Status status_;
};

// A trace in memory.
class AccessTrace {
 public:
  // Largest file that is read: 20,000 tokens of OPT-6.7B.
  static constexpr uint64_t kMaxBytes = uint64_t{1} << 30;
  static constexpr uint32_t kMaxLayers = 4096;
  static constexpr uint32_t kMaxBundles = 1u << 28;

  // kBadModel naming `name`, the offset and what was expected, for anything that is no complete trace.
  static Result<AccessTrace> Parse(std::span<const std::byte> bytes, const std::string& name);
  // For tests and tools: tokens[t][layer] is an ascending list of positions.
  static AccessTrace FromSets(const TraceHeader& header,
                              const std::vector<std::vector<std::vector<uint32_t>>>& tokens);

  const TraceHeader& header() const { return header_; }
  size_t num_tokens() const { return num_sets() / header_.num_layers; }
  size_t num_sets() const { return begins_.size() - 1; }
  size_t num_uses() const { return bundles_.size(); }
  // The bundles (layer * ffn_size + position) that a token demanded of a layer, ascending.
  std::span<const uint32_t> Set(size_t token, uint32_t layer) const {
    const size_t set = token * header_.num_layers + layer;
    return std::span(bundles_).subspan(begins_[set], begins_[set + 1] - begins_[set]);
  }
  // Index of the set's first use among all uses.
  size_t FirstUse(size_t token, uint32_t layer) const { return begins_[token * header_.num_layers + layer]; }

 private:
  TraceHeader header_;
  std::vector<uint32_t> bundles_;     // [num_uses]
  std::vector<size_t> begins_ = {0};  // [num_sets + 1]
};

}  // namespace frugal
