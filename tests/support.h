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

// Folders of golden models: FRUGAL_GOLDENS, else tests/data/models and, where it is there, ../shared/models beside the project.
std::vector<std::string> GoldenRoots();
// The folder or file of that name below the first root that has it; below the first root where none has.
std::string FindGolden(const std::string& name);
// Whether an earlier root has the file too.
bool IsRepeated(const std::filesystem::path& file);
// Directories with a golden.safetensors and safetensors weights below the roots. Those of another architecture than OPT or of
// another file format are listed on stdout.
std::vector<std::string> FindGoldenDirectories();
// The sequences of a golden.safetensors; those without a greedy continuation have none.
std::vector<GoldenSequence> ReadSequences(const std::string& path);
GoldenModel ReadGolden(const std::string& directory);

// Packs into `directory`; the test fails when it cannot. Returns the packed file.
std::string PackModel(const std::string& source, const TemporaryDirectory& directory, const std::string& name = "model.gguf",
                      std::optional<DType> type = std::nullopt);
// The same with the neurons of every layer in a random order.
std::string PackModelShuffled(const std::string& source, const TemporaryDirectory& directory);
// Trains small predictors beside the packed model, quickly, on `num_tokens` tokens of the model's own text.
void TrainPredictors(const std::string& packed, uint32_t num_tokens = 2048);

// models/tale of the project.
std::string TaleDirectory();

EngineOptions TestOptions(const std::string& packed);
std::unique_ptr<Engine> OpenOrFail(const EngineOptions& options);

// Infinity where one has a NaN.
double MaxDifference(std::span<const float> a, std::span<const float> b);
double RelativeRms(std::span<const float> got, std::span<const float> expected);
// Continues the sequence greedily; the ids must be the golden's. Returns the largest difference of the logits.
double CheckGreedy(Engine& engine, const GoldenSequence& sequence);

// Runs the ids through a new session in steps of `batch` rows and returns the logits of every position. // [ids, vocab_size]
std::vector<float> AllLogits(Engine& engine, std::span<const int32_t> ids, uint32_t batch);
// The same of all sequences, one behind the other.
std::vector<float> AllLogits(Engine& engine, std::span<const GoldenSequence> sequences, uint32_t batch);
// By an engine of its own, in the options' batches; empty, and the test has failed, where it cannot be opened.
std::vector<float> LogitsOf(const EngineOptions& options, std::span<const GoldenSequence> sequences);
void ExpectSameBits(std::span<const float> got, std::span<const float> expected, const std::string& what);
// Calls check(options, what) for settings that must not change a bit of what a packed model in flash mode computes.
void ForEachHostileSetting(const EngineOptions& base, FunctionRef<void(const EngineOptions&, const char*)> check);

// A model that runs where it lies; `options_of` gives the options of a mode. Logits and greedy ids are the golden's in every mode.
void ExpectGoldenInEveryMode(const GoldenModel& golden, FunctionRef<EngineOptions(RunMode)> options_of);
// The resident mode's bits in the others, with other readers, threads and batches, in the smallest budget and in a little more.
void ExpectSameBitsInPlace(const GoldenModel& golden, FunctionRef<EngineOptions(RunMode)> options_of);

void WriteAll(const std::filesystem::path& path, const std::string& bytes);

}  // namespace frugal::testing
