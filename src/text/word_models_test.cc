// The models that work by scores, against what specifies them: a search of all ways.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "src/base/random.h"
#include "src/text/tokenizer.h"

namespace frugal {
namespace {

using Ids = std::vector<int32_t>;

// <unk>, then tokens of a, b and c with random scores; every letter is one but c.
Vocabulary RandomVocabulary(const char* model, Random& random) {
  Vocabulary vocabulary;
  vocabulary.model = model;
  vocabulary.pipeline = R"({"decoder": {"type": "Fuse"}, "fuse_unk": true})";
  vocabulary.unk_id = 0;
  vocabulary.tokens = {"<unk>", "a", "b"};
  while (vocabulary.tokens.size() < 20) {
    std::string token;
    for (uint64_t size = 2 + random.Below(3); token.size() < size;) token += "abc"[random.Below(3)];
    if (std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), token) == vocabulary.tokens.end()) {
      vocabulary.tokens.push_back(token);
    }
  }
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    vocabulary.scores.push_back(-static_cast<double>(random.Below(8)));  // many are equal
    vocabulary.kinds.push_back(id == 0 ? TokenKind::kUnknown : TokenKind::kNormal);
  }
  return vocabulary;
}

int32_t Find(const Vocabulary& vocabulary, const std::string& text) {
  const auto at = std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), text);
  return at == vocabulary.tokens.end() ? -1 : static_cast<int32_t>(at - vocabulary.tokens.begin());
}

// Looks for the best pair in the whole word, merges it, begins again.
Ids MergeNaively(const Vocabulary& vocabulary, const std::string& text) {
  std::vector<std::string> symbols;
  for (const char c : text) symbols.emplace_back(1, c);
  for (;;) {
    double best_score = -std::numeric_limits<double>::infinity();
    size_t best = symbols.size();
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const int32_t id = Find(vocabulary, symbols[i] + symbols[i + 1]);
      if (id > 0 && vocabulary.scores[id] > best_score) {
        best_score = vocabulary.scores[id];
        best = i;
      }
    }
    if (best == symbols.size()) break;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
  Ids ids;
  for (const std::string& symbol : symbols) {
    const int32_t id = Find(vocabulary, symbol);
    if (id < 0 && !ids.empty() && ids.back() == 0) continue;
    ids.push_back(id < 0 ? 0 : id);
  }
  return ids;
}

// The highest sum of scores of `text`, over all ways to cut it.
double BestSum(const Vocabulary& vocabulary, const std::string& text, double unknown_score) {
  if (text.empty()) return 0.0;
  double best = -std::numeric_limits<double>::infinity();
  for (size_t size = 1; size <= text.size(); ++size) {
    const int32_t id = Find(vocabulary, text.substr(0, size));
    if (id < 0 && size > 1) continue;
    const double score = id < 0 ? unknown_score : vocabulary.scores[id];
    best = std::max(best, score + BestSum(vocabulary, text.substr(size), unknown_score));
  }
  return best;
}

std::string RandomText(Random& random, uint64_t max_size) {
  std::string text;
  for (uint64_t size = 1 + random.Below(max_size); text.size() < size;) text += "abc"[random.Below(3)];
  return text;
}

TEST(ScoreEncoderTest, AgreesWithNaiveMerging) {
  constexpr uint64_t kSeed = 20260612;
  std::printf("seed %lu\n", static_cast<unsigned long>(kSeed));
  Random random(kSeed);
  for (int round = 0; round < 50; ++round) {
    const Vocabulary vocabulary = RandomVocabulary("llama", random);
    const auto tokenizer = Tokenizer::Create(vocabulary, "test");
    ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
    for (int i = 0; i < 20; ++i) {
      const std::string text = RandomText(random, 60);
      EXPECT_EQ(*tokenizer->Encode(text, SpecialTokens::kOmit), MergeNaively(vocabulary, text)) << text;
    }
  }
}

TEST(UnigramEncoderTest, FindsTheHighestSum) {
  constexpr uint64_t kSeed = 20260613;
  std::printf("seed %lu\n", static_cast<unsigned long>(kSeed));
  Random random(kSeed);
  for (int round = 0; round < 30; ++round) {
    Vocabulary vocabulary = RandomVocabulary("t5", random);
    vocabulary.pipeline = R"({"decoder": {"type": "Fuse"}})";  // an unknown character is one token, so that sums can be compared
    const auto tokenizer = Tokenizer::Create(vocabulary, "test");
    ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
    const double unknown_score = *std::min_element(vocabulary.scores.begin(), vocabulary.scores.end()) - 10.0;
    for (int i = 0; i < 10; ++i) {
      const std::string text = RandomText(random, 9);
      double sum = 0.0;
      std::string joined;
      const auto ids = tokenizer->Encode(text, SpecialTokens::kOmit);
      ASSERT_TRUE(ids.has_value());
      for (const int32_t id : *ids) {
        sum += id == 0 ? unknown_score : vocabulary.scores[id];
        joined += id == 0 ? "c" : vocabulary.tokens[id];
      }
      EXPECT_EQ(joined, text);
      EXPECT_EQ(sum, BestSum(vocabulary, text, unknown_score)) << text;
    }
  }
}

// `tokens` of model "llama" or "t5", all letters with it, byte tokens first.
Tokenizer WithBytes(const char* model, const std::vector<std::string>& tokens, const std::vector<double>& scores) {
  Vocabulary vocabulary;
  vocabulary.model = model;
  vocabulary.pre_tokenizer = "default";
  vocabulary.byte_fallback = true;
  vocabulary.add_prefix_space = false;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.push_back(fmt::format("<0x{:02X}>", byte));
    vocabulary.kinds.push_back(TokenKind::kByte);
    vocabulary.scores.push_back(0.0);
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    vocabulary.tokens.push_back(tokens[i]);
    vocabulary.kinds.push_back(TokenKind::kNormal);
    vocabulary.scores.push_back(scores[i]);
  }
  auto tokenizer = Tokenizer::Create(vocabulary, "test");
  EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  return *std::move(tokenizer);
}

TEST(WordModelsTest, WhatIsNoTokenIsSpelledByBytes) {
  for (const char* model : {"llama", "t5"}) {
    const Tokenizer tokenizer = WithBytes(model, {"a", "\u2581"}, {-1.0, -2.0});
    EXPECT_EQ(*tokenizer.Encode("a\u00E9 a", SpecialTokens::kOmit), (Ids{256, 0xC3, 0xA9, 257, 256})) << model;
    EXPECT_EQ(tokenizer.Decode(Ids{256, 0xC3, 0xA9, 257, 256}, ShowSpecial::kYes), "a\u00E9 a") << model;
    // Each byte of a run that is no text is marked.
    EXPECT_EQ(tokenizer.Decode(Ids{0xC3, 0xC3, 256, 0x41}, ShowSpecial::kYes), "\uFFFD\uFFFDaA") << model;
    EXPECT_EQ(tokenizer.TokenBytes(0xC3), "\xC3") << model;
  }
}

// SentencePiece's merging knows no text for a byte's or a special token.
TEST(WordModelsTest, TheTextOfAByteTokenIsOrdinaryToMerging) {
  const Tokenizer tokenizer = WithBytes("llama", {"<0", "x41", "<0x", "41>"}, {-1.0, -1.0, -1.0, -1.0});
  const auto ids = tokenizer.Encode("<0x41>", SpecialTokens::kOmit);
  ASSERT_TRUE(ids.has_value());
  for (const int32_t id : *ids) EXPECT_NE(id, 0x41);
}

// B3: where nothing splits a text, all of it is one word.
TEST(WordModelsTest, B3LongTextsTakeNearLinearTime) {
  std::vector<std::string> tokens;
  std::vector<double> scores;
  for (std::string run = "a"; run.size() <= 64; run += run) {
    tokens.push_back(run);
    scores.push_back(-1.0);
  }
  constexpr size_t kBytes = 4'000'000;
  for (const char* model : {"llama", "t5"}) {
    const Tokenizer tokenizer = WithBytes(model, tokens, scores);
    EXPECT_EQ(tokenizer.Encode(std::string(kBytes, 'a'), SpecialTokens::kOmit)->size(), kBytes / 64) << model;
    EXPECT_EQ(tokenizer.Encode(std::string(kBytes, ' '), SpecialTokens::kOmit)->size(), kBytes * 3) << model;
    EXPECT_EQ(tokenizer.Encode(std::string(kBytes, '\0'), SpecialTokens::kOmit)->size(), kBytes) << model;
  }
}

}  // namespace
}  // namespace frugal
