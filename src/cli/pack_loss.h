// What `frugal pack` loses where it converts weights: the perplexity of the source and of the packed model on one text. A GGUF is measured
// where it lies; a checkpoint is packed exactly into a file beside the output, which goes again.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "src/cli/model_text.h"
#include "src/format/packed_format.h"
#include "src/model/config.h"
#include "src/pack/pack.h"

namespace frugal {

struct LossOptions {
  std::string source_path;
  bool is_gguf = false;  // the source
  std::optional<Activation> activation;  // that the user said
  ModelText text;
  // Asked for: what stands in the way is an error. Else a line on standard error says so, and nothing is measured.
  bool is_asked = false;
  uint64_t ram_bytes = 0;  // of the whole process, for one model after the other
  int num_threads = 1;
  std::string exact_path;  // for the checkpoint, packed exactly
  std::function<Status(const std::string& path, uint64_t ram_bytes)> pack_exactly;
};

// A checkpoint above this is packed a second time only when that is asked for.
constexpr uint64_t kLargestUnaskedBytes = uint64_t{2} << 30;

// As PackOptions::measure wants it.
Result<std::optional<PerplexityEffect>> MeasureLoss(const LossOptions& options, const std::string& packed_path, const PackReport& so_far,
                                                    uint64_t held_bytes);

}  // namespace frugal
