// A flipped bit anywhere in the weights is found before it is used: exit code 3, with tensor and row.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>

#include "src/base/random.h"
#include "src/format/packed_format.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

void FlipBit(const std::string& path, uint64_t offset_bytes, unsigned bit) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(static_cast<std::streamoff>(offset_bytes));
  char byte = 0;
  file.get(byte);
  byte = static_cast<char>(byte ^ (1 << bit));
  file.seekp(static_cast<std::streamoff>(offset_bytes));
  file.put(byte);
  ASSERT_TRUE(file.good());
}

// Opens and runs a token; all neurons, so that every weight is used.
std::optional<Error> RunOnce(const std::string& packed, RunMode mode) {
  EngineOptions options = TestOptions(packed);
  options.mode = mode;
  options.context = 16;
  Result<std::unique_ptr<Engine>> engine = Engine::Open(options);
  if (!engine) return engine.error();
  auto session = (*engine)->NewSession().value();
  const std::vector<int32_t> ids = {2};
  const Status status = (*engine)->Step(*session, ids, 1);
  if (!status) return status.error();
  return std::nullopt;
}

TEST(DamageTest, AFlippedBitInAnyTensorIsFoundWithTensorAndRow) {
  TemporaryDirectory directory;
  const std::string packed = PackModel(std::string(FRUGAL_SOURCE_DIR) + "/tests/data/models/opt", directory);
  ModelFile model = ModelFile::Open(packed).value();
  Random random(3);
  for (const RunMode mode : {RunMode::kResident, RunMode::kNaive, RunMode::kFlash}) {
    ASSERT_FALSE(RunOnce(packed, mode).has_value());
    for (const TensorInfo& info : model.gguf().tensors()) {
      if (info.name.ends_with(".ffn_order")) continue;  // only `frugal check` reads it
      uint64_t at = random.Below(info.extent.size_bytes);
      if (info.name == "token_embd.weight") at = 2 * info.extent.size_bytes / info.rows() + 5;  // the row that is used
      if (info.name == "position_embd.weight") at = 2 * info.extent.size_bytes / info.rows() + 5;
      FlipBit(packed, info.extent.offset_bytes + at, static_cast<unsigned>(random.Below(8)));
      const std::optional<Error> error = RunOnce(packed, mode);
      ASSERT_TRUE(error.has_value()) << info.name << " in " << RunModeName(mode);
      EXPECT_EQ(error->code, ErrorCode::kBadModel) << error->message;
      EXPECT_NE(error->message.find("row"), std::string::npos) << error->message;
      if (info.name != kHashOfHashesName) {
        EXPECT_NE(error->message.find(info.name), std::string::npos) << error->message;
      }
      // Packing is deterministic: this restores the file.
      std::filesystem::remove(packed);
      PackModel(std::string(FRUGAL_SOURCE_DIR) + "/tests/data/models/opt", directory);
    }
  }
}

// A prompt's layers are read past the cache, in blocks, which polls check ahead.
TEST(DamageTest, AFlippedBitInAnyBlockOfAPromptsLayerIsFound) {
  TemporaryDirectory directory;
  const std::string packed = PackModel(std::string(FRUGAL_SOURCE_DIR) + "/models/tale", directory);
  const ModelFile model = ModelFile::Open(packed).value();
  const BundleInfo& bundle = model.bundles()[1];
  const std::vector<int32_t> ids(20, 7);
  const auto run = [&]() -> std::optional<Error> {
    EngineOptions options = TestOptions(packed);
    options.mode = RunMode::kFlash;
    options.slots_share = 0.25;
    options.context = 32;
    options.max_batch = 20;
    options.exact_batch = true;
    Result<std::unique_ptr<Engine>> engine = Engine::Open(options);
    if (!engine) return engine.error();
    auto session = (*engine)->NewSession().value();
    const Status status = (*engine)->Step(*session, ids, 1);
    return status ? std::nullopt : std::optional(status.error());
  };
  ASSERT_FALSE(run().has_value());
  const uint32_t num_rows = model.config().ffn_size;
  for (uint32_t row : {0u, num_rows / 3, num_rows / 2, num_rows - 1}) {
    const uint64_t at = bundle.extent.offset_bytes + row * bundle.stride_bytes + 3;
    FlipBit(packed, at, 2);
    const std::optional<Error> error = run();
    ASSERT_TRUE(error.has_value()) << row;
    EXPECT_EQ(error->code, ErrorCode::kBadModel) << error->message;
    EXPECT_NE(error->message.find(fmt::format("{}: row {} at", bundle.name, row)), std::string::npos) << error->message;
    FlipBit(packed, at, 2);
  }
}

}  // namespace
}  // namespace frugal::testing
