// What the tests of tests/ share: golden models found by listing a folder, packed into a temporary directory; engines opened with
// test options.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/base/temp_dir_for_test.h"
#include "src/engine/engine.h"

namespace frugal::testing {

// Beside the build rather than in /tmp, which is often a tmpfs without O_DIRECT.
class TemporaryDirectory : public TempDir {
 public:
  TemporaryDirectory() : TempDir(std::filesystem::current_path().string()) {}
};

struct GoldenSequence {
  std::vector<int32_t> input_ids;
  std::vector<float> logits;         // [input_ids.size(), vocab_size]
  std::vector<int32_t> greedy;       // greedy continuation
  std::vector<float> greedy_logits;  // [greedy.size(), vocab_size]: the logits that chose them
};

// A folder of tests/data/models: config.json, weights, golden.safetensors, golden.json.
struct GoldenModel {
  std::string name;
  std::string directory;
  double tolerance = 0;  // logit_tolerance_abs
  uint32_t vocab_size = 0;
  std::vector<GoldenSequence> sequences;
};

// FRUGAL_GOLDENS, else tests/data/models.
std::string GoldenRoot();
// Directories with a golden.safetensors and safetensors weights below FRUGAL_GOLDENS (default tests/data/models). Those of another
// architecture than OPT or of another file format are listed on stdout as skipped.
std::vector<std::string> FindGoldenDirectories();
// The sequences of a golden.safetensors; those without a greedy continuation have none.
std::vector<GoldenSequence> ReadSequences(const std::string& path);
GoldenModel ReadGolden(const std::string& directory);

// Packs into `directory`; the test fails when it cannot. Returns the packed file.
std::string PackModel(const std::string& source, const TemporaryDirectory& directory, const std::string& name = "model.gguf",
                      std::optional<DType> type = std::nullopt);
// The same with the neurons of every layer in a random order.
std::string PackModelShuffled(const std::string& source, const TemporaryDirectory& directory);
// Trains small predictors beside the packed model, quickly.
void TrainPredictors(const std::string& packed);

// models/tale of the project.
std::string TaleDirectory();

EngineOptions TestOptions(const std::string& packed);
std::unique_ptr<Engine> OpenOrFail(const EngineOptions& options);

// A NaN is the largest difference.
double MaxDifference(std::span<const float> a, std::span<const float> b);
double RelativeRms(std::span<const float> got, std::span<const float> expected);
// Continues the sequence greedily; the ids must be the golden's. Returns the largest difference of the logits.
double CheckGreedy(Engine& engine, const GoldenSequence& sequence);

// Runs the ids through a new session in steps of `batch` rows and returns the logits of every position. // [ids, vocab_size]
std::vector<float> AllLogits(Engine& engine, std::span<const int32_t> ids, uint32_t batch);

}  // namespace frugal::testing
