// Turns a Hugging Face checkpoint or an ordinary GGUF file into the packed GGUF that frugal runs (packed_format.h). A
// library: it prints nothing. The output appears under its name only when it is complete and synced; on an
// error, a cancellation or a kill nothing has changed there.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/bytes.h"
#include "src/base/function_ref.h"
#include "src/base/memory_ledger.h"
#include "src/base/result.h"
#include "src/format/neuron_order.h"
#include "src/format/output_file.h"
#include "src/format/packed_format.h"
#include "src/model/config.h"
#include "src/tensor/dtype.h"

namespace frugal {

struct PackReport;

struct PackOptions {
  std::string source_path;  // a directory, a Hugging Face cache entry, or a GGUF file that is not packed
  std::string output_path;
  // F32, F16, BF16, Q8_0 or Q4_0 for all matrices and bundles; nothing: each tensor its own. Vectors (norms,
  // biases) keep theirs always, position embeddings are not quantised.
  std::optional<DType> type;
  std::optional<DType> down_type;  // of the down projection, in bundles or a matrix, instead of `type`
  // Of gated models: kGateAndBundle2 (the default where the activation is sparse; else for `train --sparsify`), or with a sparse activation
  // kBundle3.
  std::optional<FfnLayout> layout;
  std::optional<Activation> activation;  // instead of what the source says
  Overwrite overwrite = Overwrite::kNo;
  uint32_t align_bytes = 512;  // of a bundle: 512 or 4096 (BundleStrideBytes)
  uint64_t ram_bytes = kGiB;   // of the whole process
  NeuronOrders neuron_orders;  // of the source's neurons; empty: as in the source
  // Measures what converting weights costs, where one of them changed: it may read the packed file, which is complete at `path` but not
  // under its name yet, while `held_bytes` of the budget stay in use. What it returns is stored in the file as measured on
  // `measured_text`; nothing: it was not measured. Empty: no keys are kept for it.
  std::function<Result<std::optional<PerplexityEffect>>(const std::string& path, const PackReport& so_far, uint64_t held_bytes)> measure;
  std::string measured_text;
  const std::atomic<bool>* cancel = nullptr;  // when it becomes true, Pack ends with kFailed "interrupted"
  int (*fault_hook_for_test)(const char* operation) = nullptr;  // GgufWriter::set_fault_hook_for_test
};

struct PackReport {
  uint64_t file_bytes = 0;
  uint64_t source_bytes_read = 0;
  uint64_t num_parameters = 0;
  uint64_t num_tensors = 0;  // of the source, that were used
  uint64_t stride_bytes = 0;
  FfnLayout layout = FfnLayout::kUpDown;
  std::optional<DType> gate_type;  // of the bundles, as the next two; with FfnLayout::kMatrices there are none
  DType up_type = DType::kF32, down_type = DType::kF32;
  Activation activation;
  float largest_difference = 0;  // |written - source| of the weights that were converted
  std::optional<PerplexityEffect> effect;  // of converting them; nothing: not measured
  uint64_t content_hash = 0;
  bool has_tokenizer = false;
  uint64_t elapsed_ns = 0;  // without measuring
  MemoryLedger memory;                // what the budget went to
  std::vector<std::string> warnings;  // tensors that were not used, a tokenizer that is not there
};

// `progress` gets the share that is done, in [0, 1], and the tensor that is worked on; often enough for a
// progress bar.
//
// kUsage: the options, or the output exists. kBadModel: the checkpoint; also a NaN, an infinity or a number
// that `type` cannot hold, with tensor and row. kDoesNotFit: the budget, with the smallest that works, before
// any weight is read. kIo: with the file and what failed; a full disk before any weight is read.
Result<PackReport> Pack(const PackOptions& options,
                        FunctionRef<void(double share, std::string_view what)> progress);

}  // namespace frugal
