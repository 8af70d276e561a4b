#include "src/engine/vocabulary_load.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "src/format/byte_source.h"
#include "src/format/json_file.h"

namespace frugal {
namespace {

namespace fs = std::filesystem;

std::string ReadWhole(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// llama.cpp's vocabularies with texts (each ends in a line __ggml_vocab_test__) and the ids that the model's own tokenizer gives.
class GgmlVocabularyTest : public testing::TestWithParam<const char*> {
 protected:
  fs::path path() const { return fs::path(FRUGAL_SHARED) / "tokenizers" / ("ggml-vocab-" + std::string(GetParam()) + ".gguf"); }

  std::vector<std::string> Texts() const {
    const std::string separator = "\n__ggml_vocab_test__\n";
    std::string all = ReadWhole(path().string() + ".inp");
    std::vector<std::string> texts;
    for (size_t end; (end = all.find(separator)) != std::string::npos; all.erase(0, end + separator.size())) {
      texts.push_back(all.substr(0, end));
    }
    return texts;
  }

  std::vector<std::vector<int32_t>> Ids() const {
    std::istringstream lines(ReadWhole(path().string() + ".out"));
    std::vector<std::vector<int32_t>> ids;
    for (std::string line; std::getline(lines, line);) {
      std::istringstream numbers(line);
      ids.emplace_back(std::istream_iterator<int32_t>(numbers), std::istream_iterator<int32_t>());
    }
    return ids;
  }
};

Result<GgufReader> OpenGguf(const fs::path& path) {
  FRUGAL_ASSIGN(auto source, OpenFileSource(path.string()));
  return GgufReader::Open(std::move(source));
}

TEST_P(GgmlVocabularyTest, GivesTheModelsOwnIds) {
  if (!fs::exists(path())) GTEST_SKIP() << path() << " is not there (vocabularies of others may not be part of the project)";
  const auto gguf = OpenGguf(path());
  ASSERT_TRUE(gguf.has_value()) << gguf.error().message;
  const auto tokenizer = LoadTokenizer(*gguf);
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  const auto estimate = EstimateTokenizerBytes(*gguf);
  ASSERT_TRUE(estimate.has_value());
  EXPECT_GE(*estimate, tokenizer->memory_bytes());

  const std::vector<std::string> texts = Texts();
  const std::vector<std::vector<int32_t>> expected = Ids();
  ASSERT_GT(texts.size(), 40u);
  ASSERT_EQ(texts.size(), expected.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    SCOPED_TRACE("text: " + texts[i]);
    const auto ids = tokenizer->Encode(texts[i], SpecialTokens::kOmit);
    ASSERT_TRUE(ids.has_value()) << ids.error().message;
    EXPECT_EQ(*ids, expected[i]);
    EXPECT_EQ(tokenizer->Decode(expected[i], ShowSpecial::kYes), texts[i]);
    Utf8Stream stream;
    std::string streamed;
    for (size_t k = 0; k < expected[i].size(); ++k) {
      streamed += stream.Push(tokenizer->TokenBytes(expected[i][k], k == 0 ? TokenPlace::kFirst : TokenPlace::kLater));
    }
    EXPECT_EQ(streamed + stream.Flush(), texts[i]);
  }
}

// B3: quadratic time would be hours.
TEST_P(GgmlVocabularyTest, B3LongTextsTakeNearLinearTime) {
  if (!fs::exists(path())) GTEST_SKIP() << path() << " is not there (vocabularies of others may not be part of the project)";
  const auto gguf = OpenGguf(path());
  ASSERT_TRUE(gguf.has_value()) << gguf.error().message;
  const auto tokenizer = LoadTokenizer(*gguf);
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  constexpr size_t kBytes = 1'000'000;
  for (const std::string& unit : {std::string("a"), std::string(" "), std::string("\n"), std::string("\0", 1), std::string("7"),
                                  std::string("A"), std::string("\u00E9"), std::string("\u4E00"), std::string(" a")}) {
    std::string text;
    while (text.size() < kBytes) text += unit;
    const auto ids = tokenizer->Encode(text, SpecialTokens::kOmit);
    ASSERT_TRUE(ids.has_value()) << ids.error().message;
    EXPECT_EQ(tokenizer->Decode(*ids, ShowSpecial::kYes), text);
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, GgmlVocabularyTest,
                         testing::Values("deepseek-llm", "falcon", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Real models, which are too large for any folder of tests: FRUGAL_REAL_MODELS names where they are.
TEST(RealVocabularyTest, GivesTheIdsOfPrompts) {
  const char* root = std::getenv("FRUGAL_REAL_MODELS");
  if (root == nullptr) GTEST_SKIP() << "FRUGAL_REAL_MODELS names no folder";
  int num_files = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(fs::path(FRUGAL_SHARED) / "models/real", error)) {
    const auto cases = ReadJsonFile(entry.path().string());
    ASSERT_TRUE(cases.has_value()) << cases.error().message;
    const fs::path file = fs::path(root) / cases->at("file").get<std::string>();
    if (!fs::exists(file)) continue;
    SCOPED_TRACE(file.string());
    const auto gguf = OpenGguf(file);
    ASSERT_TRUE(gguf.has_value()) << gguf.error().message;
    const auto tokenizer = LoadTokenizer(*gguf);
    ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
    const auto estimate = EstimateTokenizerBytes(*gguf);
    ASSERT_TRUE(estimate.has_value());
    EXPECT_GE(*estimate, tokenizer->memory_bytes());
    for (const auto& item : cases->at("cases")) {
      const auto ids = tokenizer->Encode(item.at("prompt").get<std::string>(), SpecialTokens::kAdd);
      ASSERT_TRUE(ids.has_value());
      EXPECT_EQ(*ids, item.at("prompt_ids").get<std::vector<int32_t>>());
      std::string text;
      Utf8Stream stream;
      for (const int32_t id : item.at("llama_cpp_greedy_ids")) {
        if (!tokenizer->IsSpecial(id)) text += stream.Push(tokenizer->TokenBytes(id));
      }
      EXPECT_EQ(text + stream.Flush(), item.at("llama_cpp_text"));
    }
    ++num_files;
  }
  EXPECT_GT(num_files, 0) << root << " holds none of the models";
}

}  // namespace
}  // namespace frugal
