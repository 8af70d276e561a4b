// Recorded cases of Hugging Face's `tokenizers` and of SentencePiece: every field must be equal. A folder of cases holds
// tokenizer-cases.json
// ({"cases": [{"text", "ids", "ids_without_special", "decoded", "decoded_skip_special"}]}; a field may lack)
// beside tokenizer.json, vocab.json + merges.txt, or both, which must then agree. NAME-tokenizer-cases.json belongs to
// NAME-tokenizer.model, a SentencePiece file.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "src/text/tokenizer.h"
#include "src/text/vocabulary.h"

namespace frugal {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kCasesFile[] = "tokenizer-cases.json";

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

// In pieces, as text comes out of a running model.
std::string DecodedInPieces(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, ShowSpecial show) {
  Utf8Stream stream;
  std::string text;
  TokenPlace place = TokenPlace::kFirst;
  for (const int32_t id : ids) {
    if (show == ShowSpecial::kSkip && tokenizer.IsSpecial(id)) continue;
    text += stream.Push(tokenizer.TokenBytes(id, place));
    place = TokenPlace::kLater;
  }
  return text + stream.Flush();
}

void CheckCase(const Tokenizer& tokenizer, const json& expected) {
  const std::string text = expected.at("text").get<std::string>();
  SCOPED_TRACE("text: " + text);
  const char* ids_key = expected.contains("ids") ? "ids" : "ids_without_special";
  if (expected.contains("ids")) {
    const auto ids = tokenizer.Encode(text, SpecialTokens::kAdd);
    ASSERT_TRUE(ids.has_value()) << ids.error().message;
    EXPECT_EQ(*ids, expected["ids"].get<std::vector<int32_t>>());
  }
  if (expected.contains("ids_without_special")) {
    const auto plain = tokenizer.Encode(text, SpecialTokens::kOmit);
    ASSERT_TRUE(plain.has_value());
    EXPECT_EQ(*plain, expected["ids_without_special"].get<std::vector<int32_t>>());
  }
  // Decoded from the recorded ids, so that a wrong encoding does not hide a wrong decoding.
  const auto recorded = expected.at(ids_key).get<std::vector<int32_t>>();
  for (const auto& [key, show] : {std::pair("decoded", ShowSpecial::kYes), {"decoded_skip_special", ShowSpecial::kSkip}}) {
    if (!expected.contains(key)) continue;
    EXPECT_EQ(tokenizer.Decode(recorded, show), expected[key]);
    EXPECT_EQ(DecodedInPieces(tokenizer, recorded, show), expected[key]);
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
int CheckFiles(const fs::path& folder, TokenizerFiles files) {
  const bool from_json = files == TokenizerFiles::kTokenizerJson;
  const std::string what = folder.string() + (from_json ? " (tokenizer.json)" : " (vocab.json + merges.txt)");
  SCOPED_TRACE(what);
  const auto vocabulary = ReadHuggingFaceVocabulary(folder.string(), files);
  if (!vocabulary && vocabulary.error().code == ErrorCode::kFailed) return 0;  // these files are not there
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

int CheckFolder(const fs::path& folder) {
  return CheckFiles(folder, TokenizerFiles::kTokenizerJson) + CheckFiles(folder, TokenizerFiles::kVocabAndMerges);
}

fs::path SourceDir() { return FRUGAL_SOURCE_DIR; }

TEST(TokenizerCasesTest, AgreesWithTheFoldersOfTestData) {
  const auto folders = CaseFolders(SourceDir() / "tests/data/tokenizers");
  EXPECT_GE(folders.size(), 9u);
  for (const fs::path& folder : folders) EXPECT_GE(CheckFolder(folder), 80);
}

TEST(TokenizerCasesTest, AgreesWithTale) {
  fs::path folder = SourceDir() / "models/tale";
  if (!fs::exists(folder / kCasesFile)) folder = fs::path(FRUGAL_SHARED) / "models/tale";
  if (!fs::exists(folder / kCasesFile)) GTEST_SKIP() << folder << " is not there";
  EXPECT_GE(CheckFolder(folder), 170);  // 90 from tokenizer.json and most of them again
}

TEST(TokenizerCasesTest, AgreesWithOptAsPublished) {
  const fs::path folder = fs::path(FRUGAL_SHARED) / "tokenizers/opt";
  if (!fs::exists(folder / kCasesFile)) {
    GTEST_SKIP() << folder << " is not there (OPT's vocabulary may not be part of the project)";
  }
  EXPECT_GE(CheckFolder(folder), 80);
}

TEST(TokenizerCasesTest, AgreesWithEveryFolderOfCases) {
  const fs::path root = fs::path(FRUGAL_SHARED) / "tokenizers/hf";
  const auto folders = CaseFolders(root);
  if (folders.empty()) GTEST_SKIP() << root << " is not there";
  for (const fs::path& folder : folders) EXPECT_GE(CheckFolder(folder), 80);
}

TEST(TokenizerCasesTest, AgreesWithSentencePiece) {
  const fs::path root = fs::path(FRUGAL_SHARED) / "tokenizers";
  int num_files = 0;
  for (const char* name : {"llama-2", "mistral-v1"}) {
    const std::string prefix = (root / name).string();
    std::ifstream model(prefix + "-tokenizer.model", std::ios::binary);
    std::ifstream cases(prefix + "-tokenizer-cases.json", std::ios::binary);
    if (!model || !cases) continue;
    SCOPED_TRACE(name);
    const auto vocabulary = ParseSentencePiece(std::string(std::istreambuf_iterator<char>(model), {}), name);
    ASSERT_TRUE(vocabulary.has_value()) << vocabulary.error().message;
    const auto tokenizer = Tokenizer::Create(*vocabulary, name);
    ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
    const json list = json::parse(cases).at("cases");
    EXPECT_GE(list.size(), 80u);
    for (const json& expected : list) CheckCase(*tokenizer, expected);
    ++num_files;
  }
  if (num_files == 0) GTEST_SKIP() << root << " holds no SentencePiece models (theirs may not be part of the project)";
}

TEST(TokenizerCasesTest, AgreesWithTheFolderOfTheEnvironment) {
  const char* root = std::getenv("FRUGAL_TOKENIZER_CASES");
  if (root == nullptr) GTEST_SKIP() << "FRUGAL_TOKENIZER_CASES names no folder";
  const auto folders = CaseFolders(root);
  EXPECT_FALSE(folders.empty()) << root << " holds no " << kCasesFile;
  for (const fs::path& folder : folders) CheckFolder(folder);
}

}  // namespace
}  // namespace frugal
