#include "src/format/pytorch_checkpoint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "src/base/random.h"
#include "src/base/temp_dir_for_test.h"
#include "src/format/pickle.h"
#include "src/format/pytorch_bytes_for_test.h"

namespace frugal {
namespace {

using namespace pickle_for_test;

std::string Archive(const std::string& pickle, const std::string& byte_order = "little") {
  ZipForTest zip;
  zip.Add({"m/data.pkl", pickle, 0, 8});
  zip.Add({"m/byteorder", byte_order});
  zip.Add({"m/data/0", std::string(24, '0')});
  zip.Add({"m/data/1", std::string(8, '1')});
  return zip.Finish();
}

Result<std::vector<TensorInfo>> ReadBytes(const std::string& bytes) {
  return ReadPytorchFile(*MakeMemorySource("m.bin", std::as_bytes(std::span(bytes))));
}

template <typename T>
void ExpectError(const Result<T>& read, const std::string& part) {
  ASSERT_FALSE(read) << "expected: " << part;
  EXPECT_EQ(read.error().code, ErrorCode::kBadModel) << read.error().message;
  EXPECT_TRUE(read.error().message.starts_with("m.bin: ")) << read.error().message;
  EXPECT_NE(read.error().message.find(part), std::string::npos) << read.error().message << "\nexpected: " << part;
  EXPECT_LT(read.error().message.size(), 1000u);
}
void ExpectRefused(const std::string& bytes, const std::string& part) { ExpectError(ReadBytes(bytes), part); }

Result<std::vector<PickledTensor>> ReadPickle(const std::string& pickle) {
  return ReadTensorPickle(std::as_bytes(std::span(pickle)), "m.bin", 1000);
}
void ExpectPickleRefused(const std::string& pickle, const std::string& part) { ExpectError(ReadPickle(pickle), part); }

const std::string& Float6() {
  static const std::string storage = Storage("FloatStorage", "0", 6);
  return storage;
}

TEST(PytorchCheckpointTest, FindsTensorsInTheirStorages) {
  const std::string half = Storage("HalfStorage", "1", 4);
  // A parameter, a tensor with attributes, and one that shares a storage.
  const std::string parameter = Global("torch._utils", "_rebuild_parameter") +
                                Tuple(Tensor(half, 0, {2, 2}, {2, 1}) + "\x88" + Global("collections", "OrderedDict") + ")R") + "R";
  const std::string with_state = Global("torch._tensor", "_rebuild_from_type_v2") +
                                 Tuple(Global("torch._utils", "_rebuild_tensor_v2") + Global("torch", "Tensor") +
                                       Arguments(Float6(), 2, {4, 1}, {1, 7}) + "}" + Text("tag") + "]" + Int(1) + "as") + "R";
  const std::string bytes =
      Archive(StateDict(Text("a") + Tensor(Float6(), 0, {2, 3}, {3, 1}) + Text("b") + parameter + Text("c") + with_state +
                        Text("scalar") + Tensor(half, 3, {}, {}) + Text("empty") + Tensor(half, 4, {0, 5}, {5, 1})));
  const auto read = ReadBytes(bytes);
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_EQ(read->size(), 5u);
  const TensorInfo& a = (*read)[0];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.dtype, DType::kF32);
  EXPECT_EQ(a.shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(bytes.substr(a.extent.offset_bytes, a.extent.size_bytes), std::string(24, '0'));
  const TensorInfo& b = (*read)[1];
  EXPECT_EQ(b.dtype, DType::kF16);
  EXPECT_EQ(bytes.substr(b.extent.offset_bytes, b.extent.size_bytes), std::string(8, '1'));
  const TensorInfo& c = (*read)[2];
  EXPECT_EQ(c.shape, (std::vector<uint64_t>{4, 1}));
  EXPECT_EQ(c.extent, (Extent{a.extent.offset_bytes + 8, 16}));
  EXPECT_EQ((*read)[3].extent, (Extent{b.extent.offset_bytes + 6, 2}));
  EXPECT_EQ((*read)[4].extent.size_bytes, 0u);
}

TEST(PytorchCheckpointTest, RefusesTensorsThatDoNotFitTheirStorage) {
  const auto one = [](const std::string& tensor) { return Archive(StateDict(Text("w") + tensor)); };
  ExpectRefused(one(Tensor(Float6(), 1, {2, 3}, {3, 1})), "m.bin: tensor 'w': offset ");
  ExpectRefused(one(Tensor(Float6(), 1, {2, 3}, {3, 1})), "its 6 elements from 1 on reach beyond its storage of 6");
  ExpectRefused(one(Tensor(Float6(), 7, {0}, {1})), "from 7 on reach beyond");
  ExpectRefused(one(Tensor(Float6(), 0, {3, 2}, {1, 3})), "is not contiguous (shape [3, 2], strides [1, 3])");
  ExpectRefused(one(Tensor(Float6(), 0, {2, 2}, {0, 0})), "is not contiguous");
  ExpectRefused(one(Tensor(Storage("FloatStorage", "0", 7), 0, {2, 3}, {3, 1})), "has 24 bytes, expected 7 elements of F32");
  ExpectRefused(one(Tensor(Storage("HalfStorage", "0", 6), 0, {2, 3}, {3, 1})), "has 24 bytes, expected 6 elements of F16");
  ExpectRefused(one(Tensor(Storage("FloatStorage", "9", 6), 0, {2, 3}, {3, 1})), "its storage 'm/data/9' is missing");
  ExpectRefused(one(Tensor(Storage("DoubleStorage", "0", 3), 0, {3}, {1})), "is of a DoubleStorage, a type that no weight has");
}

TEST(PytorchCheckpointTest, A16RefusesOtherKindsByName) {
  ExpectRefused("", "is empty");
  ExpectRefused(StateDict(""), "is a bare Python pickle, as PyTorch before 1.6 wrote checkpoints");
  std::string tar(512, '\0');
  tar.replace(257, 5, "ustar");
  ExpectRefused(tar, "is a tar archive");
  ExpectRefused("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer");
  ExpectRefused("<!DOCTYPE html><html>", "an HTML or XML page");
  ExpectRefused("GGUF\x03", "is a GGUF file");
  ExpectRefused("nothing known", "offset 0: expected a PyTorch checkpoint");
  ZipForTest other;
  other.Add({"readme.txt", "x"});
  ExpectRefused(other.Finish(), "a ZIP archive without data.pkl");
  ZipForTest two;
  two.Add({"a/data.pkl", "x"});
  two.Add({"b/data.pkl", "x"});
  ExpectRefused(two.Finish(), "expected one data.pkl");
  ExpectRefused(Archive(StateDict(""), "big"), "expected the byte order 'little'");
}

TEST(PytorchCheckpointTest, SurvivesAnyTruncationAndAnyFlippedByte) {
  const std::string bytes = Archive(StateDict(Text("a") + Tensor(Float6(), 0, {2, 3}, {3, 1})));
  for (size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(ReadBytes(bytes.substr(0, size))) << size;
  Random random(5);
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int repeat = 0; repeat < 16; ++repeat) {
      std::string changed = bytes;
      changed[i] = static_cast<char>(random.Below(256));
      const auto read = ReadBytes(changed);
      if (!read) {
        EXPECT_EQ(read.error().code, ErrorCode::kBadModel) << read.error().message;
        continue;
      }
      for (const TensorInfo& tensor : *read) EXPECT_LE(tensor.extent.end_bytes(), bytes.size());
    }
  }
}

TEST(PytorchCheckpointTest, OpensADirectory) {
  const TempDir directory;
  const std::string path = directory.Write("pytorch_model.bin", Archive(StateDict(Text("a") + Tensor(Float6(), 0, {6}, {1}))));
  const auto opened = PytorchCheckpoint::Open(directory.path());
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ((*opened)->file_paths(), std::vector<std::string>{path});
  EXPECT_NE((*opened)->Find("a"), nullptr);
  const TempDir empty;
  const auto refused = PytorchCheckpoint::Open(empty.path());
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("holds neither pytorch_model.bin nor pytorch_model.bin.index.json"), std::string::npos);
}

// What published files look like: a prefix, attributes, a tied lm_head; shards with an index.
TEST(PytorchCheckpointTest, ReadsRealFiles) {
  const std::string shared = std::string(FRUGAL_SHARED) + "/models/";
  if (!std::filesystem::exists(shared + "opt-bin")) GTEST_SKIP() << shared << "opt-bin is not there";
  const auto opt = PytorchCheckpoint::Open(shared + "opt-bin");
  ASSERT_TRUE(opt) << opt.error().message;
  const TensorInfo* head = (*opt)->Find("lm_head.weight");
  const TensorInfo* tokens = (*opt)->Find("decoder.embed_tokens.weight");
  ASSERT_TRUE(head != nullptr && tokens != nullptr);
  EXPECT_EQ(head->extent, tokens->extent);
  EXPECT_EQ(head->shape, (std::vector<uint64_t>{320, 64}));
  EXPECT_EQ((*opt)->tensors().size(), 53u);
  const auto falcon = PytorchCheckpoint::Open(shared + "falcon-7b-relu-bin");
  ASSERT_TRUE(falcon) << falcon.error().message;
  EXPECT_EQ((*falcon)->file_paths().size(), 2u);
  EXPECT_NE((*falcon)->Find("transformer.h.2.self_attention.query_key_value.weight"), nullptr);
}

// ---- pickles that are no state dicts

TEST(PickleTest, RefusesWhatTensorsDoNotNeedByName) {
  const std::string command = Text("echo owned > /tmp/owned");
  ExpectPickleRefused("\x80\x02" + Global("os", "system") + Tuple(command) + "R.",
                      "offset 1002: asks for the Python object 'os.system'");
  ExpectPickleRefused("\x80\x04" + Text("builtins") + Text("eval") + "\x93" + Tuple(command) + "R.", "'builtins.eval'");
  // A name in another module does not become ours; nor does one of ours with an attribute behind it.
  ExpectPickleRefused("\x80\x02" + Global("evil", "_rebuild_tensor_v2") + ".", "'evil._rebuild_tensor_v2'");
  ExpectPickleRefused("\x80\x04" + Text("torch") + Text("Tensor.__init__") + "\x93.", "'torch.Tensor.__init__'");
  ExpectPickleRefused("\x80\x02" + Global("torch.hub", "load\x1b[31m") + ".", "'torch.hub.load\\x1b[31m'");
  ExpectPickleRefused("\x80\x02(ios\nsystem\n.", "opcode INST");
  ExpectPickleRefused("\x80\x02" + Global("torch", "Tensor") + ")\x81.", "opcode NEWOBJ");
  ExpectPickleRefused("\x80\x02\x82\x01.", "opcode EXT1");
  ExpectPickleRefused("\x80\x02P0\n.", "opcode PERSID");
  ExpectPickleRefused(std::string("\x80\x02\x00.", 4), "byte 0x00 is no opcode");
  // The torch functions that a state dict names with other arguments, and types called like functions.
  ExpectPickleRefused("\x80\x02" + Global("torch", "FloatStorage") + ")R.", "calls a type");
  ExpectPickleRefused("\x80\x02" + Global("torch._tensor", "_rebuild_from_type_v2") +
                          Tuple(Global("torch._tensor", "_rebuild_from_type_v2") + Global("torch", "Tensor") + ")}") + "R.",
                      "expected the function, type and arguments");
  ExpectPickleRefused("\x80\x02}" + Global("collections", "OrderedDict") + "R.", "calls a dict with a function or type");
}

TEST(PickleTest, HasLimits) {
  ExpectPickleRefused("\x80\x02Nr\xff\xff\xff\xff.", "memo entry 4294967295, expected at most");
  ExpectPickleRefused("\x80\x02" + std::string(1000, '(') + ".", "nested deeper than 256");
  ExpectPickleRefused("\x80\x02" + std::string(kMaxPickleValues + 1, 'N') + ".", "holds more than 4194304 values");
  ExpectPickleRefused("\x80\x02" + std::string(kMaxPickleValues + 1, '}') + ".", "holds more than");
  // A tuple that holds the one before it twice, thirty times: no memory, no time.
  std::string doubled = "\x80\x02N";
  for (int i = 0; i < 30; ++i) doubled += "q" + std::string(1, static_cast<char>(i)) + "h" + std::string(1, static_cast<char>(i)) + "\x86";
  ExpectPickleRefused(doubled + ".", "ends with a tuple");
  ExpectPickleRefused("\x80\x02" + Tensor(Float6(), 0, {1 << 30, 1 << 30, 1 << 30}, {1, 1, 1}) + ".", "overflows 64 bits");
  ExpectPickleRefused("\x80\x02" + Tensor(Float6(), 0, std::vector<int32_t>(9, 1), std::vector<int32_t>(9, 1)) + ".",
                      "9 dimensions");
  ExpectPickleRefused(std::string(kMaxPickleBytes + 1, 'N'), "33554433 bytes, expected at most 33554432");
  // A dict within itself is just a dict.
  ExpectPickleRefused("\x80\x02}q\x01X\x01" + std::string(3, '\0') + "ah\x01s.", "'a' is a dict, expected a tensor");
}

TEST(PickleTest, RefusesBrokenOnes) {
  ExpectPickleRefused("", "ends within an opcode");
  ExpectPickleRefused("\x80\x06}.", "protocol 6");
  ExpectPickleRefused("}\x80\x02.", "protocol 2, expected 2 to 5 at the beginning");
  ExpectPickleRefused("\x80\x02X\xff\xff\xff\xffhello.", "a string of 4294967295 bytes reaches beyond the end");
  ExpectPickleRefused("\x80\x02\x86.", "empty stack");
  ExpectPickleRefused("\x80\x02NN(\x86.", "empty stack");
  ExpectPickleRefused("\x80\x02t.", "expected a mark");
  ExpectPickleRefused("\x80\x02h\x05.", "memo entry 5 was never written");
  ExpectPickleRefused("\x80\x02NNNs.", "sets items of None");
  ExpectPickleRefused("\x80\x02}(Nu.", "expected pairs");
  ExpectPickleRefused("\x80\x02}N.", "ends with None");
  ExpectPickleRefused("\x80\x02}.}", "1 bytes follow the end");
  ExpectPickleRefused("\x80\x02N}b.", "sets the state of");
  ExpectPickleRefused("\x80\x02NNe.", "expected a mark");
  ExpectPickleRefused("\x80\x02NQ.", "expected the reference of a storage");
  ExpectPickleRefused(StateDict(Int(1) + Tensor(Float6(), 0, {1}, {1})), "has a number as a key");
  ExpectPickleRefused(StateDict(Text("a") + Int(1)), "'a' is a number, expected a tensor");
  ExpectPickleRefused(StateDict(Text("a\n") + Int(1)), "holds a control character");
  const std::string tensor = Tensor(Float6(), 0, {1}, {1});
  ExpectPickleRefused(StateDict(Text("a") + tensor + Text("a") + tensor), "tensor 'a': offset");
  ExpectPickleRefused(StateDict(Text("a") + Tensor(Float6(), -1, {1}, {1})), "expected a tensor's storage");
  ExpectPickleRefused(StateDict(Text("a") + Tensor(Float6(), 0, {-1}, {1})), "expected numbers from 0 on");
}

}  // namespace
}  // namespace frugal
