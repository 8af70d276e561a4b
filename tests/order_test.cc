// The order of the neurons, from a text to a running model: predictors move with their neurons, and the
// program's pack verb finds, takes and refuses orders.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "src/format/neuron_activity.h"
#include "src/format/packed_format.h"
#include "src/pack/reorder.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

namespace fs = std::filesystem;

NeuronOrders Backwards(const ModelConfig& config) {
  NeuronOrders orders(config.num_layers, std::vector<uint32_t>(config.ffn_size));
  for (std::vector<uint32_t>& order : orders) {
    std::iota(order.rbegin(), order.rend(), 0u);
  }
  return orders;
}

TEST(OrderTest, PredictorsChooseTheSameNeurons) {
  TemporaryDirectory directory;
  const std::string packed = PackModel(TaleDirectory(), directory);
  TrainPredictors(packed);
  const std::unique_ptr<Engine> engine = OpenOrFail(TestOptions(packed));
  ASSERT_NE(engine, nullptr);
  ReorderOptions options;
  options.source_path = packed;
  options.output_path = directory.File("ordered.gguf");
  options.predictor_source_path = DefaultPredictorPath(packed);
  options.predictor_output_path = DefaultPredictorPath(options.output_path);
  options.neuron_orders = Backwards(engine->config());
  const auto report = Reorder(options, [](double, std::string_view) {});
  ASSERT_TRUE(report) << report.error().message;
  const std::unique_ptr<Engine> ordered = OpenOrFail(TestOptions(options.output_path));
  ASSERT_NE(ordered, nullptr);
  ASSERT_TRUE(engine->has_predictor() && ordered->has_predictor());

  const uint32_t last = engine->config().ffn_size - 1;
  const auto session = engine->NewSession().value(), other = ordered->NewSession().value();
  for (const int32_t id : {2, 17, 5, 9, 100, 31, 8}) {
    std::vector<std::vector<bool>> chosen;
    const auto note = [&](const LayerObservation& seen) -> Status {
      std::vector<bool>& layer = chosen.emplace_back(last + 1);
      for (uint32_t i = 0; i <= last; ++i) layer[i] = (seen.active[i / 64] >> (i % 64) & 1) != 0;
      return {};
    };
    const LayerObserver observe(note);
    ASSERT_TRUE(engine->Step(*session, {&id, 1}, 1, &observe));
    const auto expect_same = [&](const LayerObservation& seen) -> Status {
      size_t num_different = 0;
      for (uint32_t i = 0; i <= last; ++i) {
        const bool active = (seen.active[i / 64] >> (i % 64) & 1) != 0;
        if (active != chosen[seen.layer][last - i]) ++num_different;
      }
      // Rounding may move a score over its threshold.
      EXPECT_LE(num_different, 1u) << "layer " << seen.layer;
      return {};
    };
    const LayerObserver compare(expect_same);
    ASSERT_TRUE(ordered->Step(*other, {&id, 1}, 1, &compare));
    for (size_t i = 0; i < engine->logits(0).size(); ++i)
      ASSERT_NEAR(engine->logits(0)[i], ordered->logits(0)[i], 2e-2);
  }
}

#ifdef FRUGAL_BINARY
class PackVerbTest : public ::testing::Test {
 protected:
  // Runs `frugal pack` and returns its exit code; output and messages lie in out_ and err_.
  int Pack(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {FRUGAL_BINARY, "pack"});
    const std::string out = directory_.File("out.txt"), err = directory_.File("err.txt");
    const pid_t child = fork();
    if (child == 0) {
      dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
      dup2(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
      std::vector<char*> argv;
      for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
      argv.push_back(nullptr);
      execv(argv[0], argv.data());
      _exit(127);
    }
    int status = 0;
    waitpid(child, &status, 0);
    out_ = ReadAllForTest(out);
    err_ = ReadAllForTest(err);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  // Of all its weights.
  std::string HashesOf(const std::string& name) const {
    const Result<ModelFile> model = ModelFile::Open(directory_.File(name));
    if (!model) return model.error().message;
    std::string hashes;
    for (const TensorInfo& info : model->gguf().tensors()) {
      if (info.name != kTensorHashesName && !info.name.ends_with(".xxh3")) continue;
      hashes += Bytes(name).substr(info.extent.offset_bytes, info.extent.size_bytes);
    }
    return hashes;
  }
  // Mean share of active neurons that the file's keys give.
  std::optional<double> ActivityOf(const std::string& name) const {
    const Result<ModelFile> model = ModelFile::Open(directory_.File(name));
    if (!model) return -1.0;
    const auto activity = ReadActivityKeys(model->gguf(), model->config().num_layers);
    if (!activity) return -1.0;
    if (!*activity) return std::nullopt;
    double sum = 0;
    for (const float share : (*activity)->active_shares) sum += share;
    return sum / static_cast<double>((*activity)->active_shares.size());
  }
  std::string Bytes(const std::string& name) const { return ReadAllForTest(directory_.File(name)); }

  TemporaryDirectory directory_;
  std::string out_, err_;
};

TEST_F(PackVerbTest, AnOrderFoundOnATextIsTheSameWhateverItIsFoundFrom) {
  std::string text;
  for (int i = 0; i < 400; ++i)
    text += "Once upon a time a fox met a crow " + std::to_string(i * 37 % 101) + " miles from the sea.\n";
  const std::string text_path = directory_.Write("text.txt", text);
  const std::string order = directory_.File("order.txt"), tale = TaleDirectory();
  ASSERT_EQ(Pack({tale, "-o", directory_.File("found.gguf"), "--calibrate", text_path, "--calibrate-tokens",
                  "1000", "--order-out", order, "--json"}),
            0)
      << err_;
  const nlohmann::json report = nlohmann::json::parse(out_, nullptr, false);
  ASSERT_TRUE(report.is_object()) << out_;
  EXPECT_EQ(report["calibration"]["tokens"], 1000);
  EXPECT_EQ(report["file_bytes"], fs::file_size(directory_.File("found.gguf")));
  // Nothing else lies there: the packed file that was run is gone.
  for (const fs::directory_entry& entry : fs::directory_iterator(directory_.path())) {
    EXPECT_EQ(entry.path().string().find("calibrate"), std::string::npos) << entry.path();
  }
  ASSERT_EQ(Pack({tale, "-o", directory_.File("given.gguf"), "--order", order}), 0) << err_;
  // Its weights are the same; what the text used is known where it was run alone.
  EXPECT_EQ(HashesOf("given.gguf"), HashesOf("found.gguf"));
  EXPECT_EQ(ActivityOf("given.gguf"), std::nullopt);
  EXPECT_GT(ActivityOf("found.gguf"), 0.01);
  EXPECT_LT(ActivityOf("found.gguf"), 0.3);
  ASSERT_EQ(Pack({directory_.File("found.gguf"), "-o", directory_.File("moved.gguf"), "--order", order}), 0) << err_;
  EXPECT_EQ(Bytes("moved.gguf"), Bytes("found.gguf"));
  ASSERT_EQ(Pack({tale, "-o", directory_.File("plain.gguf")}), 0) << err_;
  EXPECT_NE(Bytes("plain.gguf"), Bytes("found.gguf"));
  ASSERT_EQ(Pack({directory_.File("plain.gguf"), "-o", directory_.File("again.gguf"), "--calibrate",
                  text_path, "--calibrate-tokens", "1000"}),
            0)
      << err_;
  EXPECT_EQ(Bytes("again.gguf"), Bytes("found.gguf"));
}

TEST_F(PackVerbTest, AutoLayoutIsOfTheRunsBudget) {
  const std::string gguf = FindGolden("llama-bias/llama-bias-bf16.gguf"), output = directory_.File("auto.gguf");
  if (!fs::exists(gguf)) GTEST_SKIP() << gguf << " is not there";
  const auto layout = [&output] {
    const Result<ModelFile> model = ModelFile::Open(output);
    return model ? model->config().ffn_layout : FfnLayout::kMatrices;
  };
  // Where all fits, the exact gate is as fast as any.
  ASSERT_EQ(Pack({gguf, "-o", output, "--activation", "relu", "--layout", "auto", "--for-ram", "1G"}), 0) << err_;
  EXPECT_EQ(layout(), FfnLayout::kGateAndBundle2);
  EXPECT_NE(err_.find("layout gate+bundle2 for runs in 1.00 GiB: "), std::string::npos) << err_;
  EXPECT_NE(err_.find("assumed, not measured: 30%"), std::string::npos) << err_;
  EXPECT_EQ(Pack({gguf, "-o", output, "--force", "--activation", "relu", "--layout", "auto", "--for-ram", "1M"}), 4) << err_;
  EXPECT_NE(err_.find("no layout of it runs in 1.0 MiB (--for-ram 1048576)"), std::string::npos) << err_;
  // Packing has a budget of its own.
  const std::vector<std::string> apart = {gguf, "-o", output, "--force", "--activation", "relu", "--layout", "auto", "--for-ram", "64G"};
  const auto packing_in = [&apart](const char* ram) {
    std::vector<std::string> arguments = apart;
    arguments.insert(arguments.end(), {"--ram", ram});
    return arguments;
  };
  ASSERT_EQ(Pack(packing_in("14M")), 0) << err_;
  EXPECT_NE(err_.find("for runs in 64.00 GiB: "), std::string::npos) << err_;
  EXPECT_EQ(Pack(packing_in("1M")), 4) << err_;
  EXPECT_EQ(err_.find("--for-ram"), std::string::npos) << err_;
  EXPECT_EQ(Pack({gguf, "-o", output, "--force", "--activation", "relu", "--for-ram", "1G"}), 2) << err_;
  // Nothing to choose: no gate, or no ReLU.
  ASSERT_EQ(Pack({TaleDirectory(), "-o", output, "--force", "--layout", "up+down"}), 2) << err_;
  ASSERT_EQ(Pack({gguf, "-o", output, "--force", "--activation", "silu", "--layout", "auto"}), 0) << err_;
  EXPECT_EQ(layout(), FfnLayout::kMatrices);
}

TEST_F(PackVerbTest, RefusesOrdersAndSourcesThatCannotBeMeant) {
  const std::string tale = TaleDirectory(), output = directory_.File("model.gguf");
  const std::string bad = directory_.Write("bad.txt", "0 1 2 2\n");
  EXPECT_EQ(Pack({tale, "-o", output, "--order", bad}), 3);
  EXPECT_NE(err_.find("bad.txt: layer 0: position 3: neuron 2 was at position 2 already"), std::string::npos)
      << err_;
  EXPECT_EQ(Pack({tale, "-o", output, "--order", bad, "--calibrate", bad}), 2);
  EXPECT_EQ(Pack({tale, "-o", output, "--order-out", bad}), 2);
  EXPECT_EQ(Pack({tale, "-o", output, "--calibrate-ids", directory_.Write("ids.txt", "1\n2\nx\n")}), 2);
  EXPECT_FALSE(fs::exists(output));
  const std::string packed = PackModel(tale, directory_, "packed.gguf");
  EXPECT_EQ(Pack({packed, "-o", output}), 2);
  EXPECT_NE(err_.find("is a packed model already"), std::string::npos) << err_;
  EXPECT_EQ(Pack({packed, "-o", output, "--type", "q8_0", "--order", bad}), 2);
  EXPECT_EQ(Pack({packed, "-o", packed, "--force", "--calibrate-ids",
                  directory_.Write("ids.txt", std::string(200, '7') + "\n")}),
            2);
  std::string ids;
  for (int i = 0; i < 200; ++i) ids += std::to_string(i) + "\n";
  EXPECT_EQ(Pack({packed, "-o", packed, "--force", "--calibrate-ids", directory_.Write("ids.txt", ids)}), 2);
  EXPECT_NE(err_.find("is the source itself"), std::string::npos) << err_;
  EXPECT_EQ(Pack({packed, "-o", output, "--calibrate-ids", directory_.Write("ids.txt", ids), "--ram", "8M"}),
            4)
      << err_;
  EXPECT_FALSE(fs::exists(output));
  EXPECT_EQ(Pack({packed, "-o", output, "--calibrate-ids", directory_.Write("ids.txt", ids)}), 0) << err_;
  EXPECT_TRUE(fs::exists(output));
}
#endif

}  // namespace
}  // namespace frugal::testing
