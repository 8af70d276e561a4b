#include "src/format/hugging_face.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "src/base/temp_dir_for_test.h"
#include "src/format/pytorch_bytes_for_test.h"

namespace frugal {
namespace {

namespace fs = std::filesystem;

// As huggingface_hub lays a download out: blobs by their hash, links to them in a snapshot.
class CacheTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(entry_ + "/blobs");
    fs::create_directories(entry_ + "/refs");
    fs::create_directories(Snapshot("abc123"));
    Link("abc123", "config.json", "{}");
    Link("abc123", "pytorch_model.bin", Checkpoint("a"));
    Write("refs/main", "abc123");
  }

  static std::string Checkpoint(const std::string& name) {
    using namespace pickle_for_test;
    ZipForTest zip;
    zip.Add({"m/data.pkl", StateDict(Text(name) + Tensor(Storage("FloatStorage", "0", 2), 0, {2}, {1}))});
    zip.Add({"m/data/0", "12345678"});
    return zip.Finish();
  }
  std::string Snapshot(const std::string& name) const { return entry_ + "/snapshots/" + name; }
  void Write(const std::string& name, const std::string& content) const {
    dir_.Write("models--some-org--a-model/" + name, content);
  }
  void Link(const std::string& snapshot, const std::string& name, const std::string& content) const {
    Write("blobs/" + name, content);
    ASSERT_EQ(symlink(("../../blobs/" + name).c_str(), (Snapshot(snapshot) + "/" + name).c_str()), 0);
  }
  void ExpectRefused(const std::string& path, const std::string& part, ErrorCode code = ErrorCode::kBadModel) const {
    const auto resolved = ResolveCheckpointDirectory(path);
    ASSERT_FALSE(resolved) << "expected: " << part;
    EXPECT_EQ(resolved.error().code, code) << resolved.error().message;
    EXPECT_NE(resolved.error().message.find(part), std::string::npos) << resolved.error().message;
  }

  const TempDir dir_;
  const std::string entry_ = dir_.File("models--some-org--a-model");
};

TEST_F(CacheTest, ReadsTheSnapshotOfMainInPlace) {
  fs::create_directories(Snapshot("older"));
  Write("refs/main", "abc123\n");
  const auto resolved = ResolveCheckpointDirectory(entry_);
  ASSERT_TRUE(resolved) << resolved.error().message;
  EXPECT_EQ(resolved->path, Snapshot("abc123"));
  EXPECT_EQ(resolved->name, "a-model");
  const auto tensors = OpenCheckpointTensors(resolved->path);
  ASSERT_TRUE(tensors) << tensors.error().message;
  EXPECT_NE((*tensors)->Find("a"), nullptr);
  // The snapshot by itself is a directory like any other, but has the model's name.
  EXPECT_EQ(ResolveCheckpointDirectory(Snapshot("abc123"))->name, "a-model");
  EXPECT_EQ(ResolveCheckpointDirectory(Snapshot("abc123"))->path, Snapshot("abc123"));
  const auto empty = ResolveCheckpointDirectory(dir_.path());  // which holds the cache entry
  ASSERT_FALSE(empty);
  EXPECT_EQ(empty.error().code, ErrorCode::kBadModel);
  EXPECT_NE(empty.error().message.find("is a directory that holds neither"), std::string::npos) << empty.error().message;
}

TEST_F(CacheTest, AFileOfWeightsIsReadAlone) {
  const std::string file = Snapshot("abc123") + "/pytorch_model.bin";
  ASSERT_TRUE(IsCheckpointPath(file));
  const auto resolved = ResolveCheckpointDirectory(file);
  ASSERT_TRUE(resolved) << resolved.error().message;
  EXPECT_EQ(resolved->path, Snapshot("abc123"));
  EXPECT_EQ(resolved->name, "a-model");
  EXPECT_EQ(resolved->file, file);
  const auto tensors = OpenCheckpointTensors(*resolved);
  ASSERT_TRUE(tensors) << tensors.error().message;
  EXPECT_EQ((*tensors)->file_paths(), std::vector<std::string>{file});
  EXPECT_NE((*tensors)->Find("a"), nullptr);
}

TEST_F(CacheTest, OneOfSeveralFilesIsRefused) {
  fs::remove(Snapshot("abc123") + "/pytorch_model.bin");
  const std::string shard = Snapshot("abc123") + "/pytorch_model-00001-of-00002.bin";
  fs::copy_file(entry_ + "/blobs/pytorch_model.bin", shard);
  const auto alone = OpenCheckpointTensors(*ResolveCheckpointDirectory(shard));
  EXPECT_TRUE(alone) << alone.error().message;
  Link("abc123", "pytorch_model.bin.index.json", "{}");
  const auto refused = OpenCheckpointTensors(*ResolveCheckpointDirectory(shard));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBadModel);
  EXPECT_NE(refused.error().message.find("name their directory"), std::string::npos) << refused.error().message;
}

TEST_F(CacheTest, OnlyWhatMayBeACheckpointIsOne) {
  EXPECT_TRUE(IsCheckpointPath(entry_));
  EXPECT_TRUE(IsCheckpointPath(dir_.Write("a.safetensors", "")));
  EXPECT_TRUE(IsCheckpointPath(dir_.File("absent.safetensors")));
  EXPECT_FALSE(IsCheckpointPath(dir_.Write("b.safetensors", "GGUF....")));
  EXPECT_FALSE(IsCheckpointPath(dir_.Write("b.bin", "GGUF")));
  EXPECT_FALSE(IsCheckpointPath(dir_.Write("model.gguf", "PK")));
  EXPECT_FALSE(IsCheckpointPath(dir_.File("absent")));
}

TEST_F(CacheTest, TakesTheOnlySnapshotWhereNoRefSays) {
  fs::remove(entry_ + "/refs/main");
  EXPECT_EQ(ResolveCheckpointDirectory(entry_)->path, Snapshot("abc123"));
  fs::create_directories(Snapshot("other"));
  ExpectRefused(entry_, "2 snapshots and no refs/main");
  fs::remove_all(entry_ + "/snapshots");
  fs::create_directories(entry_ + "/snapshots");
  ExpectRefused(entry_, "0 snapshots and no refs/main");
}

TEST_F(CacheTest, ASnapshotWithoutAModelIsNone) {
  fs::create_directories(Snapshot("empty"));
  Write("refs/main", "empty");
  ExpectRefused(entry_, Snapshot("empty") + ": is a directory that holds neither config.json nor weights");
  // A circle of directories.
  fs::create_directory_symlink("../snapshots", Snapshot("circle"));
  Write("refs/main", "circle");
  ExpectRefused(entry_, Snapshot("circle") + ": is a directory that holds neither config.json nor weights");
}

TEST_F(CacheTest, RefusesRefsThatLeaveTheCache) {
  for (const char* name : {"", "..", ".", "../../etc", "/etc", "a/b", "a\x1b[2J"}) {
    Write("refs/main", name);
    ExpectRefused(entry_, "refs/main: expected the name of a directory in snapshots");
  }
  Write("refs/main", "def456");
  ExpectRefused(entry_, "names the snapshot 'def456', which is not in");
  Write("refs/main", std::string(300, 'a'));
  ExpectRefused(entry_, "refs/main");
  fs::remove(entry_ + "/refs/main");
  ASSERT_EQ(symlink("main", (entry_ + "/refs/main").c_str()), 0);
  ExpectRefused(entry_, "refs/main: is a symbolic link that leads in a circle");
  ExpectRefused(dir_.File("absent"), "cannot be opened", ErrorCode::kIo);
  ASSERT_EQ(symlink("circle", dir_.File("circle").c_str()), 0);
  ExpectRefused(dir_.File("circle"), "is a symbolic link that leads in a circle");
}

TEST_F(CacheTest, NamesLinksThatLeadInACircleOrNowhere) {
  const std::string file = Snapshot("abc123") + "/pytorch_model.bin";
  const auto expect = [&](ErrorCode code, const std::string& part) {
    const auto tensors = OpenCheckpointTensors(Snapshot("abc123"));
    ASSERT_FALSE(tensors);
    EXPECT_EQ(tensors.error().code, code);
    EXPECT_NE(tensors.error().message.find("pytorch_model.bin: " + part), std::string::npos) << tensors.error().message;
  };
  fs::remove(entry_ + "/blobs/pytorch_model.bin");
  expect(ErrorCode::kIo, "cannot be opened");
  ASSERT_EQ(symlink(file.c_str(), (entry_ + "/blobs/pytorch_model.bin").c_str()), 0);
  expect(ErrorCode::kBadModel, "is a symbolic link that leads in a circle");
  Write("blobs/lfs", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  fs::remove(file);
  ASSERT_EQ(symlink("../../blobs/lfs", file.c_str()), 0);
  expect(ErrorCode::kBadModel, "is a Git LFS pointer");
  fs::remove(file);
  const auto none = OpenCheckpointTensors(Snapshot("abc123"));
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().message.find("holds neither model.safetensors nor pytorch_model.bin"), std::string::npos);
}

// The shards of a PyTorch checkpoint are checked as those of safetensors are.
TEST_F(CacheTest, A12ShardsOfPytorchCheckpoints) {
  const std::string snapshot = Snapshot("abc123");
  fs::remove(snapshot + "/pytorch_model.bin");
  const std::string first = "pytorch_model-00001-of-00002.bin", second = "pytorch_model-00002-of-00002.bin";
  const auto index = [&](const std::string& map) {
    Write("snapshots/abc123/pytorch_model.bin.index.json", R"({"weight_map":{)" + map + "}}");
  };
  const auto expect = [&](const std::string& part) {
    const auto tensors = OpenCheckpointTensors(snapshot);
    ASSERT_FALSE(tensors) << part;
    EXPECT_EQ(tensors.error().code, ErrorCode::kBadModel);
    EXPECT_NE(tensors.error().message.find(part), std::string::npos) << tensors.error().message;
  };
  Write("snapshots/abc123/" + first, Checkpoint("a"));
  index(R"("a":")" + first + R"(","b":")" + second + '"');
  expect(second + ": is missing");
  Write("snapshots/abc123/" + second, Checkpoint("b"));
  const auto tensors = OpenCheckpointTensors(snapshot);
  ASSERT_TRUE(tensors) << tensors.error().message;
  EXPECT_EQ((*tensors)->Find("b")->file_index, 1u);
  Write("snapshots/abc123/" + second, Checkpoint("a"));
  expect("tensor 'a' is here, but");
  Write("snapshots/abc123/" + second, Checkpoint("c"));
  expect("tensor 'c' is not in the weight_map");
  index(R"("a":"../../../x.bin")");
  expect("expected the name of a file in the same directory");
  index(R"("a":"pytorch_model-00003-of-00002.bin")");
  expect("is shard 3 of 2");
}

}  // namespace
}  // namespace frugal
