// Damaged and incomplete checkpoints, run in place: refused as bad models (exit code 3), or as unreadable (5) where reading fails later, with
// a message that names file and tensor.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "tests/support.h"

namespace frugal::testing {
namespace {

namespace fs = std::filesystem;

class BadCheckpointTest : public ::testing::Test {
 protected:
  // A copy of a golden model, without its goldens.
  void Copy(const std::string& name) {
    const std::string from = FindGolden(name);
    ASSERT_TRUE(fs::exists(from)) << from;
    for (const fs::directory_entry& file : fs::directory_iterator(from)) {
      const std::string file_name = file.path().filename().string();
      if (!file_name.starts_with("golden")) fs::copy_file(file.path(), directory_.File(file_name), fs::copy_options::overwrite_existing);
    }
  }

  // All occurrences.
  void Replace(const std::string& file, const std::string& from, const std::string& to) {
    std::string bytes = ReadAllForTest(directory_.File(file));
    size_t count = 0;
    for (size_t at = 0; (at = bytes.find(from, at)) != std::string::npos; at += to.size()) {
      bytes.replace(at, from.size(), to);
      ++count;
    }
    ASSERT_GT(count, 0u) << from;
    WriteAll(directory_.File(file), bytes);
  }

  void ExpectRefused(const std::vector<std::string>& parts, ErrorCode code = ErrorCode::kBadModel) {
    const auto model = ModelFile::Open(directory_.path());
    ASSERT_FALSE(model);
    EXPECT_EQ(model.error().code, code) << model.error().message;
    for (const std::string& part : parts) {
      EXPECT_NE(model.error().message.find(part), std::string::npos) << "no " << part << ": " << model.error().message;
    }
    const auto engine = Engine::Open(TestOptions(directory_.path()));
    ASSERT_FALSE(engine);
    EXPECT_EQ(engine.error().message, model.error().message);
  }

  TemporaryDirectory directory_;
};

TEST_F(BadCheckpointTest, AMissingShardIsNamed) {
  Copy("opt-sharded");
  fs::remove(directory_.File("model-00004-of-00010.safetensors"));
  ExpectRefused({directory_.File("model-00004-of-00010.safetensors: is missing"), "places tensor 'model.decoder."});
}

TEST_F(BadCheckpointTest, AShardThatEndsTooEarlyIsNamedWithItsTensor) {
  Copy("opt-sharded");
  const std::string shard = directory_.File("model-00004-of-00010.safetensors");
  fs::resize_file(shard, fs::file_size(shard) - 100);
  ExpectRefused({shard, "tensor '", "reach beyond the end of the file"});
}

TEST_F(BadCheckpointTest, AShardThatEndsWhileItIsReadIsNamedWithItsTensor) {
  Copy("opt-sharded");
  const auto model = ModelFile::Open(directory_.path());
  ASSERT_TRUE(model) << model.error().message;
  const MatrixInfo& matrix = model->matrices()[model->layer(2).up];
  const std::string shard = model->file_paths()[matrix.file_index];
  for (const RunMode mode : {RunMode::kResident, RunMode::kNaive}) {
    EngineOptions options = TestOptions(directory_.path());
    options.mode = mode;
    options.max_batch = 1;
    const std::string whole = ReadAllForTest(shard);
    // Resident weights are read while the engine opens: the file is cut behind its header then.
    options.decorate_reader = [&](std::unique_ptr<ExtentReader> reader) {
      if (mode == RunMode::kResident) fs::resize_file(shard, matrix.extent.offset_bytes + 4096);
      return reader;
    };
    const Result<std::unique_ptr<Engine>> engine = Engine::Open(options);
    Status status;
    if (!engine) {
      status = engine.error();
    } else {
      fs::resize_file(shard, matrix.extent.offset_bytes + 4096);
      auto session = (*engine)->NewSession().value();
      for (int i = 0; i < 3 && status; ++i) status = (*engine)->Step(*session, std::vector<int32_t>{5}, 1);
    }
    ASSERT_FALSE(status) << RunModeName(mode);
    EXPECT_EQ(status.error().code, ErrorCode::kIo) << status.error().message;
    EXPECT_NE(status.error().message.find(shard), std::string::npos) << status.error().message;
    EXPECT_NE(status.error().message.find(": model.decoder.layers."), std::string::npos) << status.error().message;
    WriteAll(shard, whole);
  }
}

TEST_F(BadCheckpointTest, AMissingTensorIsNamed) {
  Copy("llama-relu");
  Replace("model.safetensors", "model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.down_prox.weight");
  ExpectRefused({directory_.path(), "tensor model.layers.1.mlp.down_proj.weight is missing"});
}

TEST_F(BadCheckpointTest, AMissingTensorOfPytorchIsNamed) {
  Copy("falcon-7b-relu-bin");
  Replace("pytorch_model-00001-of-00002.bin", "transformer.h.0.self_attention.dense.weight", "transformer.h.0.self_attention.densx.weight");
  Replace("pytorch_model.bin.index.json", "transformer.h.0.self_attention.dense.weight", "transformer.h.0.self_attention.densx.weight");
  ExpectRefused({"tensor transformer.h.0.self_attention.dense.weight is missing"});
}

TEST_F(BadCheckpointTest, AMissingKeyOfTheConfigIsNamed) {
  Copy("llama-relu");
  Replace("config.json", "\"vocab_size\"", "\"vocab_size_\"");
  ExpectRefused({"config.json", "vocab_size"});
}

TEST_F(BadCheckpointTest, WrongTypesAndShapesAreNamed) {
  Copy("llama-relu");
  const std::string path = directory_.File("model.safetensors");
  const std::string bytes = ReadAllForTest(path);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  const std::string header = bytes.substr(sizeof(length), length);
  const std::string name = "\"model.layers.0.mlp.up_proj.weight\"";
  const size_t at = header.find(name);
  ASSERT_NE(at, std::string::npos);
  const size_t type = header.find("\"dtype\":\"", at) + 9;
  const std::string stored = header.substr(type, header.find('"', type) - type);
  const auto with_header = [&](std::string changed) {
    const uint64_t changed_length = changed.size();
    std::string all(sizeof(changed_length), '\0');
    std::memcpy(all.data(), &changed_length, sizeof(changed_length));
    WriteAll(path, all + changed + bytes.substr(sizeof(length) + length));
  };
  // Integers of the same size.
  std::string changed = header;
  changed.replace(type, stored.size(), stored == "F32" ? "I32" : "I16");
  with_header(changed);
  ExpectRefused({path, "model.layers.0.mlp.up_proj.weight"});
  // Rows and columns exchanged.
  const size_t shape = header.find("\"shape\":[", at) + 9;
  const std::string old_shape = header.substr(shape, header.find(']', shape) - shape);
  const size_t comma = old_shape.find(',');
  changed = header;
  changed.replace(shape, old_shape.size(), old_shape.substr(comma + 1) + "," + old_shape.substr(0, comma));
  with_header(changed);
  ExpectRefused({path, "tensor model.layers.0.mlp.up_proj.weight has the shape", "config.json makes it"});
}

TEST_F(BadCheckpointTest, ABadConfigIsNamed) {
  Copy("opt");
  const std::string config = ReadAllForTest(directory_.File("config.json"));
  WriteAll(directory_.File("config.json"), config.substr(0, config.size() / 2));
  ExpectRefused({directory_.File("config.json")});
  fs::remove(directory_.File("config.json"));
  ExpectRefused({directory_.File("config.json")}, ErrorCode::kIo);
}

TEST_F(BadCheckpointTest, OneOfSeveralShardsIsNoModel) {
  Copy("opt-sharded");
  const auto model = ModelFile::Open(directory_.File("model-00004-of-00010.safetensors"));
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().code, ErrorCode::kBadModel);
  EXPECT_NE(model.error().message.find("name their directory, " + directory_.path()), std::string::npos) << model.error().message;
}

TEST_F(BadCheckpointTest, WhatNeedsBundlesNamesThePackedModel) {
  Copy("opt");
  const auto model = ModelFile::Open(directory_.path());
  ASSERT_TRUE(model) << model.error().message;
  const Status status = model->RequireBundles();
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("is a checkpoint, no packed model"), std::string::npos) << status.error().message;
}

// Its name says nothing: what it begins with does.
TEST_F(BadCheckpointTest, AGgufMayHaveAnyName) {
  const std::string packed = PackModel(FindGolden("opt"), directory_);
  const std::string renamed = directory_.File("pytorch_model.bin");
  fs::rename(packed, renamed);
  const auto model = ModelFile::Open(renamed);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_TRUE(model->is_packed());
}

TEST_F(BadCheckpointTest, ATokenizerThatDoesNotFitIsRefused) {
  const std::string tale = TaleDirectory();
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}) {
    fs::copy_file(tale + "/" + name, directory_.File(name));
  }
  const auto engine = Engine::Open(TestOptions(directory_.path()));
  ASSERT_TRUE(engine) << engine.error().message;
  EXPECT_NE((*engine)->tokenizer(), nullptr);
  WriteAll(directory_.File("tokenizer.json"), "{\"model\": 7}");
  const auto refused = Engine::Open(TestOptions(directory_.path()));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBadModel);
  EXPECT_NE(refused.error().message.find("tokenizer.json"), std::string::npos) << refused.error().message;
}

}  // namespace
}  // namespace frugal::testing
