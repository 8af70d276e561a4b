#include "tests/support.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "src/base/bytes.h"
#include "src/base/random.h"
#include "src/format/byte_source.h"
#include "src/format/json_file.h"
#include "src/format/safetensors.h"
#include "src/pack/pack.h"
#include "src/train/train.h"

namespace frugal::testing {
namespace fs = std::filesystem;

std::vector<std::string> GoldenRoots() {
  if (const char* given = std::getenv("FRUGAL_GOLDENS")) return {given};
  const std::string source = FRUGAL_SOURCE_DIR;
  std::vector<std::string> roots = {source + "/tests/data/models"};
  const std::string shared = source + "/../shared/models";
  if (fs::exists(shared)) {
    roots.push_back(shared);
  } else {
    std::cout << "skipped: the models that are not in tests/data: " << shared << " is not there\n";
  }
  return roots;
}

std::string FindGolden(const std::string& name) {
  const std::vector<std::string> roots = GoldenRoots();
  for (const std::string& root : roots) {
    if (fs::exists(root + "/" + name)) return root + "/" + name;
  }
  return roots[0] + "/" + name;
}

bool IsRepeated(const fs::path& file) {
  const std::string name = (file.parent_path().filename() / file.filename()).string();
  return FindGolden(name) != file.string();
}

std::vector<std::string> FindGoldenDirectories() {
  std::vector<std::string> directories;
  std::vector<fs::path> folders;
  for (const std::string& root : GoldenRoots()) {
    for (const fs::directory_entry& entry : fs::directory_iterator(root)) folders.push_back(entry.path());
  }
  for (const fs::path& folder : folders) {
    if (!fs::exists(folder / "golden.safetensors") || IsRepeated(folder / "golden.safetensors")) continue;
    const Result<nlohmann::json> config = ReadJsonFile((folder / "config.json").string());
    const std::string model_type = config ? config->value("model_type", "") : "";
    const bool has_weights =
        fs::exists(folder / "model.safetensors") || fs::exists(folder / "model.safetensors.index.json");
    if (model_type != "opt" || !has_weights) {
      std::cout << "left to architecture_test: " << folder.filename() << ", model_type \"" << model_type << "\""
                << (has_weights ? "" : " without safetensors weights") << "\n";
      continue;
    }
    directories.push_back(folder.string());
  }
  std::sort(directories.begin(), directories.end());
  return directories;
}

namespace {

template <typename T>
std::vector<T> ReadTensor(const SafetensorsDirectory& source, const std::string& name) {
  const TensorInfo* info = source.Find(name);
  CHECK(info != nullptr);
  std::ifstream file(source.file_paths()[info->file_index], std::ios::binary);
  file.seekg(static_cast<std::streamoff>(info->extent.offset_bytes));
  std::vector<T> values(info->extent.size_bytes / sizeof(T));
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(info->extent.size_bytes));
  CHECK(file.good());
  return values;
}

std::vector<int32_t> ReadIds(const SafetensorsDirectory& source, const std::string& name) {
  const TensorInfo* info = source.Find(name);
  CHECK(info != nullptr);
  if (info->dtype == DType::kI32) return ReadTensor<int32_t>(source, name);
  const std::vector<int64_t> wide = ReadTensor<int64_t>(source, name);
  return {wide.begin(), wide.end()};
}

}  // namespace

std::vector<GoldenSequence> ReadSequences(const std::string& path) {
  const auto source = SafetensorsDirectory::OpenFile(path).value();
  std::vector<GoldenSequence> sequences;
  for (int i = 0; source->Find("input_ids." + std::to_string(i)) != nullptr; ++i) {
    const std::string suffix = "." + std::to_string(i);
    GoldenSequence sequence;
    sequence.input_ids = ReadIds(*source, "input_ids" + suffix);
    sequence.logits = ReadTensor<float>(*source, "logits" + suffix);
    if (source->Find("greedy" + suffix) != nullptr) {
      sequence.greedy = ReadIds(*source, "greedy" + suffix);
      sequence.greedy_logits = ReadTensor<float>(*source, "greedy_logits" + suffix);
    }
    sequences.push_back(std::move(sequence));
  }
  CHECK(!sequences.empty());
  return sequences;
}

GoldenModel ReadGolden(const std::string& directory) {
  GoldenModel golden;
  golden.directory = directory;
  golden.name = fs::path(directory).filename().string();
  golden.tolerance = ReadJsonFile(directory + "/golden.json").value()["logit_tolerance_abs"].get<double>();
  golden.sequences = ReadSequences(directory + "/golden.safetensors");
  golden.vocab_size = static_cast<uint32_t>(golden.sequences[0].logits.size() / golden.sequences[0].input_ids.size());
  return golden;
}

std::string PackModel(const std::string& source, const TemporaryDirectory& directory, const std::string& name,
                      std::optional<DType> type) {
  PackOptions options;
  options.type = type;
  options.source_path = source;
  options.output_path = directory.File(name);
  const auto report = Pack(options, [](double, std::string_view) {});
  if (!report) ADD_FAILURE() << report.error().message;
  return options.output_path;
}

std::string PackModelShuffled(const std::string& source, const TemporaryDirectory& directory) {
  PackOptions options;
  options.source_path = source;
  options.output_path = directory.File("shuffled.gguf");
  const std::string config_path = source + "/config.json";
  const auto json = ReadJsonFile(config_path);
  const auto config = json ? ParseHuggingFaceConfig(*json, config_path) : Result<ModelConfig>(json.error());
  if (!config) {
    ADD_FAILURE() << config.error().message;
    return "";
  }
  Random random(11);
  for (uint32_t layer = 0; layer < config->num_layers; ++layer) {
    std::vector<uint32_t>& order = options.neuron_orders.emplace_back(config->ffn_size);
    std::iota(order.begin(), order.end(), 0u);
    for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[random.Below(i + 1)]);
  }
  const auto report = Pack(options, [](double, std::string_view) {});
  if (!report) ADD_FAILURE() << report.error().message;
  return options.output_path;
}

void TrainPredictors(const std::string& packed, uint32_t num_tokens) {
  TrainOptions options;
  options.model_path = packed;
  options.num_tokens = num_tokens;
  const auto report = Train(options, [](double, std::string_view) {});
  if (!report) ADD_FAILURE() << report.error().message;
}

std::string TaleDirectory() { return std::string(FRUGAL_SOURCE_DIR) + "/models/tale"; }

EngineOptions TestOptions(const std::string& packed) {
  EngineOptions options;
  options.model_path = packed;
  options.kv_type = DType::kF32;
  options.sample_recall_every = 0;
  return options;
}

std::unique_ptr<Engine> OpenOrFail(const EngineOptions& options) {
  Result<std::unique_ptr<Engine>> engine = Engine::Open(options);
  if (!engine) {
    ADD_FAILURE() << engine.error().message;
    return nullptr;
  }
  return std::move(engine).value();
}

double MaxDifference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(difference <= most)) most = std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
  }
  return most;
}

double RelativeRms(std::span<const float> got, std::span<const float> expected) {
  EXPECT_EQ(got.size(), expected.size());
  double error = 0, square = 0;
  for (size_t i = 0; i < std::min(got.size(), expected.size()); ++i) {
    error += std::pow(static_cast<double>(got[i]) - static_cast<double>(expected[i]), 2);
    square += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(error / square);
}

double CheckGreedy(Engine& engine, const GoldenSequence& sequence) {
  auto session = engine.NewSession().value();
  EXPECT_TRUE(engine.Prefill(*session, sequence.input_ids));
  std::vector<int32_t> greedy;
  double worst = 0;
  const size_t vocab_size = engine.config().vocab_size;
  for (size_t i = 0; i < sequence.greedy.size(); ++i) {
    worst = std::max(worst, MaxDifference(engine.logits(0), std::span(sequence.greedy_logits).subspan(i * vocab_size, vocab_size)));
    greedy.push_back(ArgMax(engine.logits(0)));
    EXPECT_TRUE(engine.Step(*session, std::span(greedy).last(1), 1));
  }
  EXPECT_EQ(greedy, sequence.greedy);
  return worst;
}

std::vector<float> AllLogits(Engine& engine, std::span<const int32_t> ids, uint32_t batch) {
  auto session = engine.NewSession();
  if (!session) {
    ADD_FAILURE() << session.error().message;
    return {};
  }
  std::vector<float> all;
  while (!ids.empty()) {
    const uint32_t count = static_cast<uint32_t>(std::min<size_t>(batch, ids.size()));
    const Status status = engine.Step(**session, ids.first(count), count);
    if (!status) {
      ADD_FAILURE() << status.error().message;
      return all;
    }
    all.insert(all.end(), engine.logits().begin(),
               engine.logits().begin() + static_cast<std::ptrdiff_t>(count * engine.config().vocab_size));
    ids = ids.subspan(count);
  }
  return all;
}

std::vector<float> AllLogits(Engine& engine, std::span<const GoldenSequence> sequences, uint32_t batch) {
  std::vector<float> all;
  for (const GoldenSequence& sequence : sequences) {
    const std::vector<float> logits = AllLogits(engine, sequence.input_ids, batch);
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

std::vector<float> LogitsOf(const EngineOptions& options, std::span<const GoldenSequence> sequences) {
  const std::unique_ptr<Engine> engine = OpenOrFail(options);
  return engine != nullptr ? AllLogits(*engine, sequences, options.max_batch) : std::vector<float>();
}

void ExpectSameBits(std::span<const float> got, std::span<const float> expected, const std::string& what) {
  ASSERT_FALSE(expected.empty()) << what;
  ASSERT_EQ(got.size(), expected.size()) << what;
  EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size_bytes()), 0) << what;
}

void ForEachHostileSetting(const EngineOptions& base, FunctionRef<void(const EngineOptions&, const char*)> check) {
  EngineOptions options = base;
  options.num_slots = BundleCache::kMinSlots;
  options.num_threads = 3;
  check(options, "few slots, three threads");
  options.max_batch = options.logit_rows = 1;
  options.exact_batch = true;
  check(options, "few slots, token by token");
  options = base;
  options.num_slots = BundleCache::kMinSlots + 30;
  options.bundling = options.overlap = options.window = false;
  options.io = IoBackend::kPread;
  options.direct = DirectMode::kOff;
  options.num_threads = 1;
  options.max_batch = options.logit_rows = 9;
  options.exact_batch = true;
  check(options, "halves, no overlap, no window, buffered, one thread, batches of 9");
}

void ExpectGoldenInEveryMode(const GoldenModel& golden, FunctionRef<EngineOptions(RunMode)> options_of) {
  for (const RunMode mode : {RunMode::kResident, RunMode::kNaive, RunMode::kHybrid, RunMode::kFlash}) {
    const EngineOptions options = options_of(mode);
    const std::unique_ptr<Engine> engine = OpenOrFail(options);
    ASSERT_NE(engine, nullptr);
    double worst = 0;
    for (const GoldenSequence& sequence : golden.sequences) {
      worst = std::max(worst, MaxDifference(AllLogits(*engine, sequence.input_ids, options.max_batch), sequence.logits));
      worst = std::max(worst, CheckGreedy(*engine, sequence));
    }
    EXPECT_LE(worst, golden.tolerance) << golden.name << ", " << RunModeName(mode);
  }
}

void ExpectSameBitsInPlace(const GoldenModel& golden, FunctionRef<EngineOptions(RunMode)> options_of) {
  const std::vector<float> expected = LogitsOf(options_of(RunMode::kResident), golden.sequences);
  const auto check = [&](const EngineOptions& options, const char* what) {
    ExpectSameBits(LogitsOf(options, golden.sequences), expected, what);
  };
  for (const RunMode mode : {RunMode::kNaive, RunMode::kHybrid, RunMode::kFlash}) check(options_of(mode), RunModeName(mode));
  EngineOptions options = options_of(RunMode::kNaive);
  options.io = IoBackend::kPread;
  options.direct = DirectMode::kOff;
  options.num_threads = 1;
  check(options, "pread, buffered, one thread");
  options = options_of(RunMode::kHybrid);
  options.num_threads = 3;
  options.overlap = false;
  options.max_batch = options.logit_rows = 1;
  options.exact_batch = true;
  check(options, "three threads, no overlap, batches of one");
  options = options_of(RunMode::kFlash);
  options.context = 64;
  options.max_batch = options.logit_rows = 5;
  options.ram_bytes = 1;
  const auto refused = Engine::Open(options);
  ASSERT_FALSE(refused);
  ASSERT_EQ(refused.error().code, ErrorCode::kDoesNotFit);
  const std::string& message = refused.error().message;
  options.ram_bytes = std::stoull(message.substr(message.find(" is ", message.find("context of")) + 4));
  check(options, "the smallest budget");
  options.ram_bytes += 100 * kKiB;
  check(options, "a little more");
}

void WriteAll(const std::filesystem::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

}  // namespace frugal::testing
