#include "src/pack/vocabulary_gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "src/engine/vocabulary_load.h"
#include "src/format/byte_source.h"
#include "src/format/json_file.h"
#include "src/format/tokenizer_keys.h"
#include "src/pack/pack_for_test.h"
#include "src/text/tokenizer.h"

namespace frugal {
namespace {

// A GGUF of keys alone has no data: one small tensor makes it a file that every reader takes.
GgufReader WriteAndOpen(const std::string& path, FunctionRef<void(GgufWriter&)> add_keys) {
  auto writer = GgufWriter::Open(path, Overwrite::kYes);
  EXPECT_TRUE(writer.has_value());
  add_keys(**writer);
  (*writer)->AddTensor("t", DType::kI8, std::array<uint64_t, 1>{8});
  const Status began = (*writer)->BeginData();
  EXPECT_TRUE(began.has_value()) << began.error().message;
  EXPECT_TRUE((*writer)->WriteTensorPart(0, 0, std::vector<std::byte>(8)).has_value());
  EXPECT_TRUE((*writer)->Finish().has_value());
  auto reader = GgufReader::Open(*OpenFileSource(path));
  EXPECT_TRUE(reader.has_value()) << reader.error().message;
  return *std::move(reader);
}

class VocabularyRoundTripTest : public testing::TestWithParam<std::string> {
 protected:
  std::string directory() const { return std::string(FRUGAL_SOURCE_DIR) + "/" + GetParam(); }
};

TEST_P(VocabularyRoundTripTest, GivesTheSameTokenizer) {
  const auto vocabulary = ReadHuggingFaceVocabulary(directory());
  ASSERT_TRUE(vocabulary.has_value()) << vocabulary.error().message;
  const auto expected = Tokenizer::Create(*vocabulary, "test");
  ASSERT_TRUE(expected.has_value()) << expected.error().message;
  const TempDir temp;
  const GgufReader gguf =
      WriteAndOpen(temp.File("v.gguf"), [&](GgufWriter& writer) { AddVocabularyKeys(*vocabulary, writer); });
  const auto has = HasTokenizer(gguf);
  ASSERT_TRUE(has.has_value());
  EXPECT_TRUE(*has);
  const auto loaded = LoadTokenizer(gguf);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
  ASSERT_EQ(loaded->vocab_size(), expected->vocab_size());
  EXPECT_EQ(loaded->max_token_bytes(), expected->max_token_bytes());
  for (int32_t id = 0; id < expected->vocab_size(); ++id) {
    ASSERT_EQ(loaded->TokenBytes(id), expected->TokenBytes(id)) << id;
    ASSERT_EQ(loaded->TokenBytes(id, TokenPlace::kFirst), expected->TokenBytes(id, TokenPlace::kFirst)) << id;
    ASSERT_EQ(loaded->IsSpecial(id), expected->IsSpecial(id)) << id;
  }
  const auto estimate = EstimateTokenizerBytes(gguf);
  ASSERT_TRUE(estimate.has_value()) << estimate.error().message;
  EXPECT_GE(*estimate, loaded->memory_bytes());

  const auto cases = ReadJsonFile(directory() + "/tokenizer-cases.json");
  ASSERT_TRUE(cases.has_value()) << cases.error().message;
  const nlohmann::json& list = cases->is_array() ? *cases : (*cases)["cases"];
  ASSERT_GT(list.size(), 5u);
  for (const nlohmann::json& item : list) {
    const std::string text = item["text"];
    for (const SpecialTokens special : {SpecialTokens::kAdd, SpecialTokens::kOmit}) {
      const auto ids = loaded->Encode(text, special);
      ASSERT_TRUE(ids.has_value()) << ids.error().message;
      EXPECT_EQ(*ids, *expected->Encode(text, special)) << text;
      const char* key = special == SpecialTokens::kAdd ? "ids" : "ids_without_special";
      EXPECT_EQ(nlohmann::json(*ids), item[key]) << text;
      EXPECT_EQ(loaded->Decode(*ids, ShowSpecial::kYes), expected->Decode(*ids, ShowSpecial::kYes)) << text;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, VocabularyRoundTripTest,
                         testing::Values("tests/data/tokenizers/flags-style",
                                         "tests/data/tokenizers/gpt2-style",
                                         "tests/data/tokenizers/opt-style", "tests/data/tokenizers/phi-style",
                                         "tests/data/tokenizers/deepseek3-style", "tests/data/tokenizers/falcon-style",
                                         "tests/data/tokenizers/gemma-style", "tests/data/tokenizers/gpt-oss-style",
                                         "tests/data/tokenizers/llama2-style", "tests/data/tokenizers/llama3-style",
                                         "tests/data/tokenizers/qwen2-style", "tests/data/tokenizers/unigram-style",
                                         "models/tale"),
                         [](const auto& instance) {
                           std::string name = instance.param.substr(instance.param.rfind('/') + 1);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

Vocabulary SmallVocabulary() {
  Vocabulary vocabulary;
  vocabulary.tokens = {"a", "b", "ab", "</s>"};
  vocabulary.kinds = {TokenKind::kNormal, TokenKind::kNormal, TokenKind::kNormal, TokenKind::kControl};
  vocabulary.merges = {"a b"};
  vocabulary.bos_id = 3;
  return vocabulary;
}

// A GGUF of another program has GGUF's own keys only.
TEST(VocabularyLoadTest, TakesGgufsOwnKeysAlone) {
  const TempDir temp;
  const Vocabulary vocabulary = SmallVocabulary();
  const GgufReader gguf = WriteAndOpen(temp.File("v.gguf"), [&](GgufWriter& writer) {
    writer.AddString(tokenizer_keys::kModel, "gpt2");
    writer.AddString(tokenizer_keys::kPre, "gpt-2");
    writer.AddStringArray(tokenizer_keys::kTokens, vocabulary.tokens);
    writer.AddInt32Array(tokenizer_keys::kTokenTypes, std::array{1, 1, 1, 3});
    writer.AddStringArray(tokenizer_keys::kMerges, vocabulary.merges);
    writer.AddUint32(tokenizer_keys::kBosId, 3);
    writer.AddBool(tokenizer_keys::kAddBos, true);
  });
  const auto loaded = LoadTokenizer(gguf);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
  EXPECT_EQ(*loaded->Encode("ab</s>a", SpecialTokens::kAdd), (std::vector<int32_t>{3, 2, 3, 0}));
}

TEST(VocabularyLoadTest, KnowsWhenThereIsNone) {
  const TempDir temp;
  const GgufReader none = WriteAndOpen(temp.File("n.gguf"), [](GgufWriter&) {});
  EXPECT_FALSE(*HasTokenizer(none));
  const GgufReader said = WriteAndOpen(
      temp.File("s.gguf"), [](GgufWriter& writer) { writer.AddString(tokenizer_keys::kModel, "none"); });
  EXPECT_FALSE(*HasTokenizer(said));
  const GgufReader part = WriteAndOpen(
      temp.File("p.gguf"), [](GgufWriter& writer) { writer.AddString(tokenizer_keys::kModel, "gpt2"); });
  ExpectError(HasTokenizer(part), ErrorCode::kBadModel, "'tokenizer.ggml.tokens' is absent");
}

// B2: each way of being broken is named by its key.
TEST(VocabularyLoadTest, RefusesBrokenKeys) {
  const TempDir temp;
  struct Case {
    const char* error;
    void (*spoil)(Vocabulary&);
  };
  const Case cases[] = {
      {"tokenizer.ggml.tokens': tokens 0 and 1 are the same",
       [](Vocabulary& v) { v.tokens[1] = v.tokens[0]; }},
      {"tokenizer.ggml.tokens': token 1 is empty", [](Vocabulary& v) { v.tokens[1].clear(); }},
      {"tokenizer.ggml.merges': merge 0", [](Vocabulary& v) { v.merges = {"a c"}; }},
      {"kind 9 is unknown", [](Vocabulary& v) { v.kinds[1] = static_cast<TokenKind>(9); }},
      {"id 4 is not in the vocabulary", [](Vocabulary& v) { v.prefix_ids = {4}; }},
      {"100 ids, at most 64", [](Vocabulary& v) { v.suffix_ids.assign(100, 1); }},
      {"frugal.tokenizer.prefix_ids': -1 is no number", [](Vocabulary& v) { v.prefix_ids = {-1}; }},
      {"tokenizer model", [](Vocabulary& v) { v.model = "bert"; }},
      {"pre-tokenizer", [](Vocabulary& v) { v.pre_tokenizer = "qwen99"; }},
      {"v.gguf: decoder type X is not supported", [](Vocabulary& v) { v.pipeline = R"({"decoder": {"type": "X"}})"; }},
      {"frugal.tokenizer.score_bits': token 1: is no number",
       [](Vocabulary& v) {
         v.model = "llama";
         v.merges.clear();
         v.scores = {0.0, std::nan(""), 0.0, 0.0};
       }},
      {"v.gguf: ", [](Vocabulary& v) { v.added_tokens = {MakeAddedToken(9, "</s>", 1)}; }},
  };
  for (const Case& broken : cases) {
    Vocabulary vocabulary = SmallVocabulary();
    broken.spoil(vocabulary);
    const GgufReader gguf =
        WriteAndOpen(temp.File("v.gguf"), [&](GgufWriter& writer) { AddVocabularyKeys(vocabulary, writer); });
    ExpectError(LoadTokenizer(gguf), ErrorCode::kBadModel, broken.error);
  }
  const GgufReader uneven = WriteAndOpen(temp.File("v.gguf"), [](GgufWriter& writer) {
    writer.AddString(tokenizer_keys::kModel, "gpt2");
    writer.AddStringArray(tokenizer_keys::kTokens, std::array<std::string, 2>{"a", "b"});
    writer.AddInt32Array(tokenizer_keys::kTokenTypes, std::array{1});
  });
  ExpectError(LoadTokenizer(uneven), ErrorCode::kBadModel, "1 types of 2 tokens");
}

}  // namespace
}  // namespace frugal
