#include "src/text/vocabulary.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "src/base/temp_dir_for_test.h"
#include "src/text/tokenizer.h"

namespace frugal {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<int32_t>;

testing::AssertionResult Says(const std::string& message, std::string_view part) {
  if (message.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << message << " does not say " << part;
}

// A small tokenizer.json that is right; tests break one thing each.
json Good() {
  return json::parse(R"({
    "version": "1.0",
    "added_tokens": [{"id": 3, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                      "normalized": false, "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "special_tokens": {"</s>": {"id": "</s>", "ids": [3], "tokens": ["</s>"]}}},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
              "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})");
}

std::string ErrorOf(std::string_view text) {
  const auto vocabulary = ParseTokenizerJson(text, "t.json");
  if (!vocabulary) {
    EXPECT_EQ(vocabulary.error().code, ErrorCode::kBadModel);
    EXPECT_TRUE(vocabulary.error().message.starts_with("t.json: ")) << vocabulary.error().message;
    return vocabulary.error().message;
  }
  const auto tokenizer = Tokenizer::Create(*vocabulary, "t.json");
  if (tokenizer) return "no error";
  EXPECT_EQ(tokenizer.error().code, ErrorCode::kBadModel);
  return tokenizer.error().message;
}

// The error after the value at `pointer` has become `value`.
std::string ErrorWith(const std::string& pointer, const json& value) {
  json document = Good();
  document[json::json_pointer(pointer)] = value;
  return ErrorOf(document.dump());
}

TEST(TokenizerJsonTest, AGoodFileIsReadInBothFormsOfMerges) {
  for (const json& merges : {json::array({"a b"}), json::array({json::array({"a", "b"})})}) {
    json document = Good();
    document["model"]["merges"] = merges;
    const auto vocabulary =
        ParseTokenizerJson("\xEF\xBB\xBF" + document.dump(), "t.json");  // after a byte order mark
    ASSERT_TRUE(vocabulary.has_value()) << vocabulary.error().message;
    EXPECT_EQ(vocabulary->tokens, (std::vector<std::string>{"a", "b", "ab", "</s>"}));
    EXPECT_EQ(vocabulary->kinds[3], TokenKind::kControl);
    EXPECT_EQ(vocabulary->merges, (std::vector<std::string>{"a b"}));
    EXPECT_EQ(vocabulary->prefix_ids, (Ids{3}));
    const auto tokenizer = Tokenizer::Create(*vocabulary, "t.json");
    ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
    EXPECT_EQ(*tokenizer->Encode("aab</s>", SpecialTokens::kAdd), (Ids{3, 0, 2, 3}));
  }
}

TEST(TokenizerJsonTest, OldFilesWithoutATypeAndSequencesOfProcessorsAreRead) {
  json document = Good();
  document["model"].erase("type");
  document["post_processor"] = {
      {"type", "Sequence"}, {"processors", json::array({{{"type", "ByteLevel"}}, Good()["post_processor"]})}};
  document["pre_tokenizer"] = {{"type", "Sequence"},
                               {"pretokenizers", json::array({Good()["pre_tokenizer"]})}};
  EXPECT_EQ(ErrorOf(document.dump()), "no error");
}

TEST(TokenizerJsonTest, WhatIsNotSupportedIsNamed) {
  EXPECT_TRUE(Says(ErrorWith("/pre_tokenizer/type", "UnicodeScripts"),
                   "pre_tokenizer type UnicodeScripts is not supported"));
  EXPECT_TRUE(Says(ErrorWith("/decoder", nullptr), "decoder type (none) is not supported"));
  EXPECT_TRUE(Says(ErrorWith("/model/type", "WordPiece"), "model type WordPiece is not supported"));
  EXPECT_TRUE(
      Says(ErrorWith("/normalizer", {{"type", "Precompiled"}}), "normalizer type Precompiled is not supported"));
  EXPECT_TRUE(Says(ErrorWith("/decoder/type", "WordPiece"), "decoder type WordPiece is not supported"));
  EXPECT_TRUE(Says(ErrorWith("/post_processor/type", "Other"), "post_processor type Other is not supported"));
  EXPECT_TRUE(Says(ErrorWith("/model/dropout", 0.1), "model.dropout is not supported"));
  EXPECT_TRUE(Says(ErrorWith("/model/end_of_word_suffix", "</w>"),
                   "model.end_of_word_suffix \"</w>\" is not supported"));
}

// B1
TEST(TokenizerJsonTest, B1InvalidUtf8SaysWhere) {
  std::string text = Good().dump();
  const size_t at = text.find("\"ab\"") + 1;
  text[at] = '\xff';
  EXPECT_TRUE(
      Says(ErrorOf(text), fmt::format("byte {}: not JSON: invalid string: ill-formed UTF-8 byte", at)));
}

TEST(TokenizerJsonTest, B1HugeDepthIsRefused) {
  for (const char open : {'[', '{'}) {
    std::string text = "{\"x\":";
    for (int i = 0; i < 1'000'000; ++i) text += open == '[' ? "[" : "{\"y\":";
    EXPECT_TRUE(Says(ErrorOf(text), "nested more than 64 deep"));
  }
  EXPECT_TRUE(Says(ErrorOf("{\"model\":{\"vocab\":" + std::string(1'000'000, '[')),
                   "model.vocab[0]: expected a token and its score"));
}

TEST(TokenizerJsonTest, B1BrokenJsonIsRefused) {
  EXPECT_TRUE(Says(ErrorOf(""), "byte 0: not JSON"));
  EXPECT_TRUE(Says(ErrorOf("[]"), "expected an object"));
  EXPECT_TRUE(Says(ErrorOf("3"), "expected an object"));
  EXPECT_TRUE(Says(ErrorOf("{}"), "model: not there"));
  EXPECT_TRUE(Says(ErrorOf(R"({"a": 1e999})"), "byte 10: not JSON"));
  EXPECT_TRUE(Says(ErrorOf(R"({"a": "\ud800"})"), "not JSON"));
  EXPECT_TRUE(Says(ErrorOf(R"({"a": 1, "a": 2})"), "key \"a\" is there twice"));
  EXPECT_TRUE(Says(ErrorOf("version https://git-lfs.github.com/spec/v1\n"), "this is a Git LFS pointer"));
  EXPECT_TRUE(Says(ErrorOf("<!DOCTYPE html>"), "this is a web page"));
  const std::string text = Good().dump();
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(ParseTokenizerJson(text.substr(0, size), "t.json").has_value()) << size;
  }
}

// B2
TEST(TokenizerJsonTest, B2IdsOutOfBoundsAllocateNothing) {
  EXPECT_TRUE(Says(ErrorWith("/model/vocab/a", -1),
                   "model.vocab: token \"a\": id -1, expected an id of 0 to 2147483647"));
  EXPECT_TRUE(Says(ErrorWith("/model/vocab/a", 2147483648u), "token \"a\": id 2147483648"));
  EXPECT_TRUE(Says(ErrorWith("/model/vocab/a", 2147483647), "too many holes"));
  EXPECT_TRUE(Says(ErrorWith("/model/vocab/a", 1'000'000'000), "too many holes"));
  EXPECT_TRUE(Says(ErrorWith("/model/vocab/a", 1.5), "token \"a\": no whole number"));
  EXPECT_TRUE(Says(ErrorWith("/model/vocab/a", "0"), "token \"a\": no whole number"));
  EXPECT_TRUE(Says(ErrorWith("/model/vocab/a", json::object()), "token \"a\": no whole number"));
  EXPECT_TRUE(Says(ErrorWith("/added_tokens/0/id", 1'000'000'000), "id 1000000000 does not fit"));
  EXPECT_TRUE(Says(ErrorWith("/added_tokens/0/id", -1), "added_tokens[0]: id"));
  EXPECT_TRUE(Says(ErrorWith("/post_processor/special_tokens/<~1s>/ids", {-3}), "expected ids of 0 to"));
  EXPECT_TRUE(Says(ErrorWith("/post_processor/special_tokens/<~1s>/ids", {77}), "post-processor: id 77"));
}

TEST(TokenizerJsonTest, B2DuplicateEmptyAndUnknownTokens) {
  EXPECT_TRUE(Says(ErrorWith("/model/vocab/b", 0), "id 0 twice"));
  EXPECT_TRUE(Says(ErrorWith("/model/vocab/", 3), "token 3 is empty"));
  EXPECT_TRUE(Says(ErrorWith("/model/merges/0", "a c"), "merge 0: \"c\" is not in the vocabulary"));
  EXPECT_TRUE(
      Says(ErrorWith("/model/merges/0", "b a"), "merge 0: its result \"ba\" is not in the vocabulary"));
  EXPECT_TRUE(Says(ErrorWith("/model/merges/0", 7), "model.merges[0]: expected a string, or two"));
  EXPECT_TRUE(Says(ErrorWith("/model/merges/0", {"a"}), "model.merges[0]: 1 strings, expected two"));
  EXPECT_TRUE(
      Says(ErrorWith("/model/merges/0", {"a", "b", "c"}), "model.merges[0]: expected a string, or two"));
  EXPECT_TRUE(Says(ErrorWith("/model/merges/0", {"a ", "b"}), "a space in a merge is not supported"));
  EXPECT_TRUE(Says(ErrorWith("/model/unk_token", "zz"), "model.unk_token \"zz\" is not in the vocabulary"));
  EXPECT_TRUE(Says(ErrorWith("/model/vocab", json::object()), "the vocabulary has no tokens"));
  EXPECT_TRUE(Says(ErrorWith("/added_tokens/0/id", 1), "id 1 is \"b\" in the vocabulary"));
  EXPECT_TRUE(Says(ErrorWith("/added_tokens/1", Good()["added_tokens"][0]), "id 3 twice"));
  EXPECT_TRUE(Says(ErrorWith("/added_tokens/0/content", ""), "added_tokens[0]: content"));
  EXPECT_TRUE(Says(ErrorWith("/added_tokens/0/content", "ab"), "tokens 2 and 3 are the same"));
  std::string twice = Good().dump();
  twice.insert(twice.find("\"ab\":2"), "\"ab\":3,");
  EXPECT_TRUE(Says(ErrorOf(twice), "added token"));  // id 3 is taken
}

TEST(TokenizerJsonTest, WrongTypesAreRefusedNotMisread) {
  for (const char* pointer :
       {"/model", "/model/vocab", "/model/merges", "/model/unk_token", "/model/ignore_merges",
        "/added_tokens", "/added_tokens/0", "/added_tokens/0/lstrip", "/pre_tokenizer",
        "/pre_tokenizer/use_regex", "/decoder", "/post_processor", "/post_processor/single",
        "/post_processor/special_tokens", "/normalizer"}) {
    for (const json& value : {json(7), json::array({json::array()})}) {
      EXPECT_NE(ErrorWith(pointer, value), "no error") << pointer;
    }
  }
}

TEST(VocabAndMergesTest, LinesThatAreNoMergesAreRefusedByNumber) {
  const std::string vocab = R"({"a": 0, "b": 1, "ab": 2, "#": 3, "##": 4})";
  const auto good = ParseVocabAndMerges(vocab, "#version: 0.2\r\na b\r\n# #\n\n", "v");
  ASSERT_TRUE(good.has_value()) << good.error().message;
  EXPECT_EQ(good->merges, (std::vector<std::string>{"a b", "# #"}));
  for (const char* line : {"ab", "a  b", " ab", "a b c", "ab "}) {
    const auto bad = ParseVocabAndMerges(vocab, std::string("#version: 0.2\n") + line + "\n", "v");
    ASSERT_FALSE(bad.has_value());
    EXPECT_EQ(bad.error().code, ErrorCode::kBadModel);
    EXPECT_TRUE(Says(bad.error().message, "v: merges: line 2"));
  }
  EXPECT_TRUE(Says(ParseVocabAndMerges(vocab, "a \xff\n", "v").error().message, "not UTF-8 at byte 2"));
  EXPECT_TRUE(Says(ParseVocabAndMerges(R"({"a": -1})", "", "v").error().message, "token \"a\": id -1"));
  EXPECT_TRUE(Says(ParseVocabAndMerges("[]", "", "v").error().message, "expected an object"));
}

TEST(VocabularyTest, FlagsOfAddedTokensGoThroughANumber) {
  for (uint32_t flags = 0; flags < 32; ++flags) {
    EXPECT_EQ(AddedTokenFlags(MakeAddedToken(5, "x", flags)), flags);
  }
  EXPECT_EQ(AddedTokenFlags(MakeAddedToken(5, "x", 0xFFFFFFE0)), 0u);
}

// A directory of its own for each test.
class DirectoryTest : public testing::Test {
 protected:
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ / name, std::ios::binary) << text;
  }
  void WriteOpt() {
    Write("vocab.json", R"({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "<": 5, "s": 6, ">": 7})");
    Write("merges.txt", "#version: 0.2\n");
  }
  Result<Vocabulary> Read() { return ReadHuggingFaceVocabulary(directory_.string()); }
  std::string ReadError() {
    const auto vocabulary = Read();
    EXPECT_FALSE(vocabulary.has_value());
    return vocabulary ? "" : vocabulary.error().message;
  }

  const TempDir temporary_;
  const fs::path directory_ = temporary_.path();
};

TEST_F(DirectoryTest, NoTokenizerIsAFailureOfItsOwn) {
  const auto vocabulary = Read();
  ASSERT_FALSE(vocabulary.has_value());
  EXPECT_EQ(vocabulary.error().code, ErrorCode::kFailed);
  EXPECT_TRUE(Says(vocabulary.error().message, "no tokenizer"));
}

TEST_F(DirectoryTest, OptsSpecialTokensHoldWhereNothingElseIsSaid) {
  WriteOpt();
  const auto vocabulary = Read();
  ASSERT_TRUE(vocabulary.has_value()) << vocabulary.error().message;
  EXPECT_EQ(vocabulary->prefix_ids, (Ids{2}));
  EXPECT_EQ(vocabulary->eos_id, 2);
  EXPECT_EQ(vocabulary->pad_id, 1);
  const auto tokenizer = Tokenizer::Create(*vocabulary, "opt");
  ASSERT_TRUE(tokenizer.has_value());
  EXPECT_EQ(*tokenizer->Encode("<s></s><pad>", SpecialTokens::kAdd), (Ids{2, 5, 6, 7, 2, 1}));
}

TEST_F(DirectoryTest, ConfigurationsNameTheSpecialTokens) {
  WriteOpt();
  Write("tokenizer_config.json",
        R"({"bos_token": {"content": "<s>", "lstrip": true}, "add_bos_token": true})");
  Write("special_tokens_map.json", R"({"bos_token": "<unk>", "eos_token": "</s>"})");
  Write("added_tokens.json", R"({"<new>": 8})");
  Write("config.json", R"({"pad_token_id": 1, "eos_token_id": [0, 2]})");
  const auto vocabulary = Read();
  ASSERT_TRUE(vocabulary.has_value()) << vocabulary.error().message;
  EXPECT_EQ(vocabulary->bos_id, 0);
  EXPECT_EQ(vocabulary->eos_id, 2);
  EXPECT_EQ(vocabulary->pad_id, 1);
  EXPECT_EQ(vocabulary->prefix_ids, (Ids{0}));
  const auto tokenizer = Tokenizer::Create(*vocabulary, "opt");
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  EXPECT_EQ(*tokenizer->Encode("a <s><new><unk>", SpecialTokens::kOmit), (Ids{4, 0, 8, 5, 7}));
}

TEST_F(DirectoryTest, TokenizerJsonComesFirstAndItsIdsComeFromTheConfigurations) {
  WriteOpt();
  Write("tokenizer.json", Good().dump());
  Write("config.json",
        R"({"model_type": "opt", "eos_token_id": 3, "pad_token_id": -1, "bos_token_id": null})");
  const auto vocabulary = Read();
  ASSERT_TRUE(vocabulary.has_value()) << vocabulary.error().message;
  EXPECT_EQ(vocabulary->tokens.size(), 4u);
  EXPECT_EQ(vocabulary->eos_id, 3);
  EXPECT_EQ(vocabulary->pad_id, -1);
  EXPECT_EQ(vocabulary->bos_id, -1);
}

TEST_F(DirectoryTest, BadFilesAreNamed) {
  Write("vocab.json", R"({"a": 0})");
  EXPECT_TRUE(Says(ReadError(), "merges.txt: not there"));
  Write("merges.txt", "");
  Write("config.json", R"({"eos_token_id": 99})");
  EXPECT_TRUE(Says(ReadError(), "config.json: eos_token_id: expected an id in the vocabulary of 1 tokens"));
  Write("config.json", "{");
  EXPECT_TRUE(Says(ReadError(), "config.json: byte 1: not JSON"));
  Write("config.json", "{}");
  Write("tokenizer_config.json", R"({"pad_token": "[PAD]"})");
  EXPECT_TRUE(Says(ReadError(), "tokenizer_config.json: pad_token \"[PAD]\" is not in the vocabulary"));
  Write("tokenizer_config.json", R"({"added_tokens_decoder": {"-1": {"content": "x"}}})");
  EXPECT_TRUE(Says(ReadError(), "added_tokens_decoder: \"-1\" is no id"));
  Write("tokenizer_config.json", R"({"added_tokens_decoder": {"999999999": {"content": "x"}}})");
  EXPECT_TRUE(Says(ReadError(), "does not fit a vocabulary"));
}

TEST_F(DirectoryTest, WhatIsNoRegularFileIsRefused) {
  const std::string path = (directory_ / "tokenizer.json").string();
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_TRUE(Says(ReadError(), "tokenizer.json: is not a regular file"));
  fs::remove(path);
  fs::create_directory(path);
  EXPECT_TRUE(Says(ReadError(), "tokenizer.json: is not a regular file"));
  fs::remove(path);
  fs::create_symlink("tokenizer.json", path);
  EXPECT_TRUE(Says(ReadError(), "tokenizer.json: cannot be opened"));
  fs::remove(path);
  Write("tokenizer.json", "");
  fs::resize_file(path, uint64_t{1} << 30);  // sparse
  EXPECT_TRUE(Says(ReadError(), "1073741824 bytes, at most 67108864 are supported"));
}

}  // namespace
}  // namespace frugal
