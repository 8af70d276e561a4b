// Reads a whole model file and says what is wrong in it: bytes that do not match their hashes, weights that
// are no numbers. For packed models and predictor files; of other GGUF files, which have no hashes, only the
// numbers are checked. Uses about 4 MiB. A library: it prints nothing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/function_ref.h"
#include "src/base/result.h"

namespace frugal {

struct CheckProblem {
  std::string tensor;  // "header" for the bytes before the first tensor
  uint64_t row = 0;
  uint64_t offset_bytes = 0;  // in the file
  std::string message;        // all of it, for people: file, tensor, row, offset, what is wrong
};

enum class CheckedKind { kPackedModel, kPredictor, kPlain };

struct CheckReport {
  CheckedKind kind = CheckedKind::kPlain;
  uint64_t file_bytes = 0;
  uint64_t num_tensors = 0;
  uint64_t num_hashes = 0;    // compared
  uint64_t content_hash = 0;  // 0 where there are no hashes
  uint64_t num_problems = 0;
  std::vector<CheckProblem> problems;  // the first kMaxCheckProblems of them
  uint64_t elapsed_ns = 0;
};

constexpr size_t kMaxCheckProblems = 100;

// `progress` gets the share that is done, in [0, 1], and the tensor that is read. kBadModel when the header
// is so broken that the rest cannot be found; kIo when the file cannot be read. Damage is no error: see
// num_problems.
Result<CheckReport> CheckModel(const std::string& path,
                               FunctionRef<void(double share, std::string_view what)> progress);

}  // namespace frugal
