#include "src/engine/vocabulary_load.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "src/format/byte_source.h"

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

TEST_P(GgmlVocabularyTest, GivesTheModelsOwnIds) {
  if (!fs::exists(path())) GTEST_SKIP() << path() << " is not there (vocabularies of others may not be part of the project)";
  auto source = OpenFileSource(path().string());
  ASSERT_TRUE(source.has_value()) << source.error().message;
  const auto gguf = GgufReader::Open(*std::move(source));
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

INSTANTIATE_TEST_SUITE_P(Vocabularies, GgmlVocabularyTest,
                         testing::Values("deepseek-llm", "falcon", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace frugal
