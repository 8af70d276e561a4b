// Recorded cases of Hugging Face's `tokenizers`: every field must be equal. A folder of cases holds
// tokenizer-cases.json
// ({"cases": [{"text", "ids", "ids_without_special", "decoded", "decoded_skip_special"}]}; a field may lack)
// beside tokenizer.json, vocab.json + merges.txt, or both, which must then agree.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "src/text/tokenizer.h"
#include "src/text/vocabulary.h"

namespace frugal {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kCasesFile[] = "tokenizer-cases.json";

enum class Unsupported { kFails, kIsSkipped };

// `folder` itself if it holds cases, else its subfolders that do, by name.
std::vector<fs::path> CaseFolders(const fs::path& folder) {
  if (fs::exists(folder / kCasesFile)) return {folder};
  std::vector<fs::path> folders;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (fs::exists(entry.path() / kCasesFile)) folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

json ReadCases(const fs::path& folder) {
  std::ifstream file(folder / kCasesFile, std::ios::binary);
  return json::parse(std::string(std::istreambuf_iterator<char>(file), {}));
}

void CheckCase(const Tokenizer& tokenizer, const json& expected) {
  const std::string text = expected.at("text").get<std::string>();
  SCOPED_TRACE("text: " + text);
  const auto ids = tokenizer.Encode(text, SpecialTokens::kAdd);
  ASSERT_TRUE(ids.has_value()) << ids.error().message;
  EXPECT_EQ(*ids, expected.at("ids").get<std::vector<int32_t>>());
  if (expected.contains("ids_without_special")) {
    const auto plain = tokenizer.Encode(text, SpecialTokens::kOmit);
    ASSERT_TRUE(plain.has_value());
    EXPECT_EQ(*plain, expected["ids_without_special"].get<std::vector<int32_t>>());
  }
  // Decoded from the recorded ids, so that a wrong encoding does not hide a wrong decoding.
  const auto recorded = expected["ids"].get<std::vector<int32_t>>();
  if (expected.contains("decoded")) {
    EXPECT_EQ(tokenizer.Decode(recorded, ShowSpecial::kYes), expected["decoded"]);
  }
  if (expected.contains("decoded_skip_special")) {
    EXPECT_EQ(tokenizer.Decode(recorded, ShowSpecial::kSkip), expected["decoded_skip_special"]);
  }
}

// vocab.json and merges.txt cannot name added tokens, and OPT's configuration names </s> and <pad> only: a
// text with <s> or <unk> in it is another one to them than to a tokenizer.json that adds these.
bool HasTokenOfTokenizerJsonOnly(const std::string& text, const Vocabulary& full, const Vocabulary& plain) {
  for (const AddedToken& token : full.added_tokens) {
    const auto same = [&](const AddedToken& other) { return other.id == token.id; };
    const bool known = std::any_of(plain.added_tokens.begin(), plain.added_tokens.end(), same);
    if (!known && text.find(token.content) != std::string::npos) return true;
  }
  return false;
}

// Returns the number of cases compared.
int CheckFiles(const fs::path& folder, TokenizerFiles files, Unsupported unsupported) {
  const bool from_json = files == TokenizerFiles::kTokenizerJson;
  const std::string what = folder.string() + (from_json ? " (tokenizer.json)" : " (vocab.json + merges.txt)");
  SCOPED_TRACE(what);
  const auto vocabulary = ReadHuggingFaceVocabulary(folder.string(), files);
  if (!vocabulary && vocabulary.error().code == ErrorCode::kFailed) return 0;  // these files are not there
  if (!vocabulary && unsupported == Unsupported::kIsSkipped &&
      vocabulary.error().message.find("is not supported") != std::string::npos) {
    EXPECT_EQ(vocabulary.error().code, ErrorCode::kBadModel);
    std::printf("skipped: %s\n", vocabulary.error().message.c_str());
    return 0;
  }
  EXPECT_TRUE(vocabulary.has_value()) << vocabulary.error().message;
  if (!vocabulary) return 0;
  const auto tokenizer = Tokenizer::Create(*vocabulary, what);
  EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  if (!tokenizer) return 0;
  Vocabulary full;
  if (!from_json && fs::exists(folder / "tokenizer.json")) {
    auto read = ReadHuggingFaceVocabulary(folder.string(), TokenizerFiles::kTokenizerJson);
    if (read) full = *std::move(read);
  }
  int compared = 0, left_out = 0;
  const json cases = ReadCases(folder);
  for (const json& expected : cases.at("cases")) {
    if (HasTokenOfTokenizerJsonOnly(expected.at("text"), full, *vocabulary)) {
      ++left_out;
      continue;
    }
    CheckCase(*tokenizer, expected);
    ++compared;
  }
  std::printf("%s: %d cases, %d with tokens that only tokenizer.json adds\n", what.c_str(), compared,
              left_out);
  EXPECT_GT(compared, 0);
  EXPECT_LE(left_out, compared / 20);
  return compared;
}

int CheckFolder(const fs::path& folder, Unsupported unsupported) {
  return CheckFiles(folder, TokenizerFiles::kTokenizerJson, unsupported) +
         CheckFiles(folder, TokenizerFiles::kVocabAndMerges, unsupported);
}

fs::path SourceDir() { return FRUGAL_SOURCE_DIR; }

TEST(TokenizerCasesTest, AgreesWithTheFoldersOfTestData) {
  const auto folders = CaseFolders(SourceDir() / "tests/data/tokenizers");
  EXPECT_GE(folders.size(), 2u);
  for (const fs::path& folder : folders) EXPECT_GE(CheckFolder(folder, Unsupported::kFails), 80);
}

TEST(TokenizerCasesTest, AgreesWithTale) {
  fs::path folder = SourceDir() / "models/tale";
  if (!fs::exists(folder / kCasesFile)) folder = fs::path(FRUGAL_SHARED) / "models/tale";
  if (!fs::exists(folder / kCasesFile)) GTEST_SKIP() << folder << " is not there";
  EXPECT_GE(CheckFolder(folder, Unsupported::kFails), 170);  // 90 from tokenizer.json and most of them again
}

TEST(TokenizerCasesTest, AgreesWithOptAsPublished) {
  const fs::path folder = fs::path(FRUGAL_SHARED) / "tokenizers/opt";
  if (!fs::exists(folder / kCasesFile)) {
    GTEST_SKIP() << folder << " is not there (OPT's vocabulary may not be part of the project)";
  }
  EXPECT_GE(CheckFolder(folder, Unsupported::kFails), 80);
}

TEST(TokenizerCasesTest, AgreesWithTheFolderOfTheEnvironment) {
  const char* root = std::getenv("FRUGAL_TOKENIZER_CASES");
  if (root == nullptr) GTEST_SKIP() << "FRUGAL_TOKENIZER_CASES names no folder";
  const auto folders = CaseFolders(root);
  EXPECT_FALSE(folders.empty()) << root << " holds no " << kCasesFile;
  for (const fs::path& folder : folders) CheckFolder(folder, Unsupported::kIsSkipped);
}

}  // namespace
}  // namespace frugal
