// Ordinary GGUF files, run in place, that are damaged or are something else: an error that names the place, never a crash or
// another answer. What the header alone tells is tested beside the reader (src/format/gguf_reader_test.cc) and the config
// (src/model/config_test.cc).
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "src/format/byte_source.h"
#include "src/format/gguf_bytes_for_test.h"
#include "src/pack/check.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

class BadGgufTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string path = FindGolden("llama-bias/llama-bias-bf16.gguf");
    std::ifstream file(path, std::ios::binary);
    whole_.assign(std::istreambuf_iterator<char>(file), {});
    if (whole_.empty()) GTEST_SKIP() << path << " is not there";
    auto reader = GgufReader::Open(MakeMemorySource("whole.gguf", std::as_bytes(std::span(whole_))));
    ASSERT_TRUE(reader) << reader.error().message;
    tensors_ = reader->tensors();
  }

  std::string Write(const std::string& bytes) const { return directory_.Write("model.gguf", bytes); }
  // Where a tensor's name stands in the header.
  size_t NameAt(const TensorInfo& tensor) const {
    const size_t at = whole_.find(GgufText(tensor.name));
    EXPECT_NE(at, std::string::npos) << tensor.name;
    return at + sizeof(uint64_t);
  }
  const TensorInfo& Tensor(const std::string& name) const {
    return *std::find_if(tensors_.begin(), tensors_.end(), [&](const TensorInfo& tensor) { return tensor.name == name; });
  }
  // Opened as `run` opens it.
  static void ExpectRefused(const std::string& path, const std::string& part) {
    const auto model = ModelFile::Open(path);
    ASSERT_FALSE(model) << "expected: " << part;
    EXPECT_EQ(model.error().code, ErrorCode::kBadModel) << model.error().message;
    EXPECT_NE(model.error().message.find(path), std::string::npos) << model.error().message;
    EXPECT_NE(model.error().message.find(part), std::string::npos) << model.error().message << "\nexpected: " << part;
  }

  TemporaryDirectory directory_;
  std::string whole_;
  std::vector<TensorInfo> tensors_;
};

// A GGUF has no length of its header; the first length in it is that of a key.
TEST_F(BadGgufTest, A3TheFirstLength) {
  constexpr size_t kFirstLengthAt = 24;
  const uint64_t lengths[] = {0, whole_.size(), uint64_t{1} << 20, uint64_t{1} << 63, UINT64_MAX};
  for (const uint64_t length : lengths) {
    SCOPED_TRACE(length);
    std::string bytes = whole_;
    bytes.replace(kFirstLengthAt, sizeof(length), BytesOf(length));
    ExpectRefused(Write(bytes), "key 0");
  }
}

// What may be absent (a bias, an output matrix) is then a tensor that nobody needs, which is named.
TEST_F(BadGgufTest, A11EveryMissingTensorIsNamed) {
  size_t num_refused = 0;
  for (const TensorInfo& tensor : tensors_) {
    SCOPED_TRACE(tensor.name);
    std::string bytes = whole_, renamed = tensor.name;
    renamed.back() = '_';
    bytes.replace(NameAt(tensor), renamed.size(), renamed);
    const std::string path = Write(bytes);
    const auto model = ModelFile::Open(path);
    if (model) {
      const auto& unused = model->unused_tensors();
      EXPECT_NE(std::find(unused.begin(), unused.end(), renamed), unused.end());
      continue;
    }
    // Which biases there are is what the first layer has.
    const bool is_first_bias = tensor.name.starts_with("blk.0.") && tensor.name.ends_with(".bias");
    ExpectRefused(path, is_first_bias ? "tensor blk.1." + tensor.name.substr(6) + " is there, which layer 0 has not"
                                      : "tensor " + tensor.name + " is missing");
    ++num_refused;
  }
  EXPECT_GT(num_refused, 15u);
}

// Two numbers of its shape change places: its bytes are as many.
TEST_F(BadGgufTest, A11TensorsOfAnotherShapeAreNamed) {
  size_t num_changed = 0;
  for (const TensorInfo& tensor : tensors_) {
    if (tensor.shape.size() != 2 || tensor.rows() == tensor.columns()) continue;
    SCOPED_TRACE(tensor.name);
    std::string bytes = whole_;
    const size_t dims_at = NameAt(tensor) + tensor.name.size() + sizeof(uint32_t);
    bytes.replace(dims_at, 2 * sizeof(uint64_t), BytesOf<uint64_t>(tensor.rows()) + BytesOf<uint64_t>(tensor.columns()));
    ExpectRefused(Write(bytes), tensor.name);
    ++num_changed;
  }
  EXPECT_GT(num_changed, 5u);
}

TEST_F(BadGgufTest, A13ANanEndsTheRunAndCheckFindsIt) {
  std::string bytes = whole_;
  const TensorInfo& tensor = Tensor("blk.1.attn_output.weight");
  std::memset(bytes.data() + tensor.extent.offset_bytes, 0xff, 2);  // BF16
  const std::string path = Write(bytes);
  const std::unique_ptr<Engine> engine = OpenOrFail(TestOptions(path));
  ASSERT_NE(engine, nullptr);
  auto session = engine->NewSession();
  ASSERT_TRUE(session);
  const std::vector<int32_t> ids = {1, 2};
  const Status status = engine->Prefill(**session, ids);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kBadModel);
  EXPECT_NE(status.error().message.find("first seen behind layer 1"), std::string::npos) << status.error().message;
  const auto report = CheckModel(path, [](double, std::string_view) {});
  ASSERT_TRUE(report) << report.error().message;
  ASSERT_EQ(report->num_problems, 1u);
  EXPECT_EQ(report->problems[0].tensor, tensor.name);
}

// It has no hashes, so that a flipped bit that is still a number cannot be found: the first line says so.
TEST_F(BadGgufTest, A14WeightsThatCannotBeVerifiedAreSaidToBeSo) {
  const std::unique_ptr<Engine> engine = OpenOrFail(TestOptions(Write(whole_)));
  ASSERT_NE(engine, nullptr);
  EXPECT_NE(engine->Describe().find("weights not verified (no hashes)"), std::string::npos) << engine->Describe();
}

TEST_F(BadGgufTest, A15NotARegularFile) {
  const std::string fifo = directory_.File("fifo.gguf"), loop = directory_.File("loop.gguf"), folder = directory_.File("folder.gguf");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  ASSERT_EQ(symlink("loop.gguf", loop.c_str()), 0);
  std::filesystem::create_directory(folder);
  ExpectRefused(fifo, "is a FIFO");
  ExpectRefused(loop, "leads in a circle");
  ExpectRefused(folder, "is a directory");
  ExpectRefused("/dev/zero", "is a device");
}

TEST_F(BadGgufTest, A16OtherFilesAndWhatFollowsTheLastTensor) {
  const std::pair<std::string, const char*> cases[] = {
      {whole_ + std::string(4096, '\0'), "follow the last tensor"},
      {whole_ + "PK\x03\x04", "follow the last tensor"},
      {"PK\x03\x04" + whole_, "is a ZIP archive"},
      {"\x80\x02}q", "is a Python pickle"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer"},
      {"<!DOCTYPE html><html>", "is an HTML or XML page"},
      {BytesOf<uint64_t>(2) + "{}", "looks like a safetensors file"},
      {"", "is empty"},
  };
  for (const auto& [bytes, part] : cases) ExpectRefused(Write(bytes), part);
}

// The model was trained with SiLU: of gates that know no ReLU about half are positive.
TEST_F(BadGgufTest, AClaimOfSparsityIsMeasured) {
  EngineOptions options = TestOptions(Write(whole_));
  const std::vector<int32_t> ids = {1, 2, 3, 4};
  for (const bool claimed : {false, true}) {
    if (claimed) options.activation = Activation{ActivationKind::kRelu, 0.0f};
    const std::unique_ptr<Engine> engine = OpenOrFail(options);
    ASSERT_NE(engine, nullptr);
    auto session = engine->NewSession();
    ASSERT_TRUE(session);
    const Status status = engine->Prefill(**session, ids);
    ASSERT_TRUE(status) << status.error().message;
    const double share = engine->statistics().active_share;
    if (claimed) {
      EXPECT_GT(share, SparsityMeter::kMostActive);
    } else {
      EXPECT_LT(share, 0) << "nothing is claimed";
    }
  }
}

}  // namespace
}  // namespace frugal::testing
