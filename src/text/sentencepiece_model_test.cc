#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "src/base/temp_dir_for_test.h"
#include "src/text/tokenizer.h"
#include "src/text/vocabulary.h"

namespace frugal {
namespace {

using Ids = std::vector<int32_t>;

std::string Varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
  return out;
}
std::string Number(uint32_t field, uint64_t value) { return Varint(field << 3) + Varint(value); }
std::string Bytes(uint32_t field, std::string_view bytes) {
  return Varint(field << 3 | 2) + Varint(bytes.size()) + std::string(bytes);
}
std::string Piece(std::string_view text, float score, TokenKind kind = TokenKind::kNormal) {
  const uint32_t bits = std::bit_cast<uint32_t>(score);
  std::string fixed;
  for (int i = 0; i < 4; ++i) fixed.push_back(static_cast<char>(bits >> (8 * i)));
  return Bytes(1, Bytes(1, text) + Varint(2 << 3 | 5) + fixed + Number(3, static_cast<uint64_t>(kind)));
}

// <unk>, <s>, </s>, user-defined <u>, and a few words.
std::string Pieces() {
  return Piece("<unk>", 0, TokenKind::kUnknown) + Piece("<s>", 0, TokenKind::kControl) +
         Piece("</s>", 0, TokenKind::kControl) + Piece("<u>", 0, TokenKind::kUserDefined) + Piece("\u2581", -1) +
         Piece("a", -2) + Piece("b", -3) + Piece("ab", -4) + Piece("\u2581a", -5);
}
std::string Model(const std::string& trainer, const std::string& normalizer) {
  return Pieces() + Bytes(2, trainer) + Bytes(3, normalizer);
}
// BPE; a space in front, spaces kept.
std::string Good() { return Model(Number(3, 2), Number(3, 1) + Number(4, 0)); }

Tokenizer Make(const std::string& model) {
  const auto vocabulary = ParseSentencePiece(model, "m");
  EXPECT_TRUE(vocabulary.has_value()) << vocabulary.error().message;
  auto tokenizer = Tokenizer::Create(*vocabulary, "m");
  EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  return *std::move(tokenizer);
}

Ids Encode(const Tokenizer& tokenizer, std::string_view text) { return *tokenizer.Encode(text, SpecialTokens::kOmit); }

std::string ErrorOf(const std::string& model) {
  const auto vocabulary = ParseSentencePiece(model, "m");
  if (!vocabulary) {
    EXPECT_EQ(vocabulary.error().code, ErrorCode::kBadModel);
    EXPECT_TRUE(vocabulary.error().message.starts_with("m: "));
    return vocabulary.error().message;
  }
  const auto tokenizer = Tokenizer::Create(*vocabulary, "m");
  return tokenizer ? "no error" : tokenizer.error().message;
}

testing::AssertionResult Says(const std::string& message, std::string_view part) {
  if (message.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << message << " does not say " << part;
}

TEST(SentencePieceTest, ReadsPiecesAndWhatTheTrainerSaid) {
  const auto vocabulary = ParseSentencePiece(Good(), "m");
  ASSERT_TRUE(vocabulary.has_value()) << vocabulary.error().message;
  EXPECT_EQ(vocabulary->model, "llama");
  EXPECT_EQ(vocabulary->tokens.size(), 9u);
  EXPECT_EQ(vocabulary->scores[7], -4.0);
  EXPECT_EQ(vocabulary->kinds[3], TokenKind::kUserDefined);
  EXPECT_EQ(vocabulary->unk_id, 0);
  EXPECT_EQ(vocabulary->bos_id, 1);
  EXPECT_EQ(vocabulary->eos_id, 2);
  EXPECT_EQ(vocabulary->pad_id, -1);
  EXPECT_EQ(vocabulary->prefix_ids, (Ids{1}));
}

TEST(SentencePieceTest, TextIsTreatedAsSentencePieceDoes) {
  const Tokenizer tokenizer = Make(Good());
  EXPECT_EQ(Encode(tokenizer, "ab"), (Ids{4, 7}));
  EXPECT_EQ(Encode(tokenizer, "a  a"), (Ids{8, 4, 8}));
  EXPECT_EQ(Encode(tokenizer, ""), Ids{});
  EXPECT_EQ(Encode(tokenizer, "a<u>b"), (Ids{8, 3, 6}));
  EXPECT_EQ(Encode(tokenizer, "<u>"), (Ids{4, 3}));  // the space in front is there all the same
  EXPECT_EQ(Encode(tokenizer, "a<s>"), (Ids{8, 0}));  // special tokens are ordinary text, here of unknown characters
  EXPECT_EQ(tokenizer.Decode(Ids{1, 8, 4, 8, 2}, ShowSpecial::kSkip), "a  a");
}

TEST(SentencePieceTest, SpacesGoWhereTheNormalizerSaysSo) {
  const Tokenizer tokenizer = Make(Model(Number(3, 2), Number(3, 0) + Number(4, 1)));
  EXPECT_EQ(Encode(tokenizer, "  a   a "), (Ids{5, 8}));
  EXPECT_EQ(Encode(tokenizer, "   "), Ids{});
}

TEST(SentencePieceTest, AUnigramModelIsTheDefault) {
  const auto vocabulary = ParseSentencePiece(Model("", Number(4, 0)), "m");
  ASSERT_TRUE(vocabulary.has_value());
  EXPECT_EQ(vocabulary->model, "t5");
  EXPECT_EQ(Encode(Make(Model("", Number(4, 0))), "ab"), (Ids{4, 7}));
}

TEST(SentencePieceTest, TransformersAddTokensAndSayWhatToAdd) {
  const TempDir temp;
  const auto write = [&](const char* name, const std::string& text) {
    std::ofstream(temp.File(name), std::ios::binary) << text;
  };
  write("tokenizer.model", Good());
  write("tokenizer_config.json", R"({"add_bos_token": false, "add_eos_token": true,
    "added_tokens_decoder": {"1": {"content": "<s>", "special": true}, "9": {"content": "<new>", "special": true}}})");
  const auto vocabulary = ReadHuggingFaceVocabulary(temp.path());
  ASSERT_TRUE(vocabulary.has_value()) << vocabulary.error().message;
  const auto tokenizer = Tokenizer::Create(*vocabulary, "m");
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  EXPECT_EQ(*tokenizer->Encode("a<s><new>a", SpecialTokens::kAdd), (Ids{8, 1, 9, 8, 2}));
}

// B2
TEST(SentencePieceTest, B2WhatIsBrokenOrNotSupportedIsNamed) {
  EXPECT_TRUE(Says(ErrorOf(""), "no pieces"));
  EXPECT_TRUE(Says(ErrorOf("version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"));
  EXPECT_TRUE(Says(ErrorOf(Piece("", 0)), "piece 0 is empty"));
  EXPECT_TRUE(Says(ErrorOf(Piece("a", std::nanf(""))), "piece 0 \"a\": its score is no number"));
  EXPECT_TRUE(Says(ErrorOf(Piece("a", 0, static_cast<TokenKind>(7))), "piece 0: type 7 is unknown"));
  EXPECT_TRUE(Says(ErrorOf(Bytes(1, Number(1, 5))), "piece 0: wire type 0"));
  EXPECT_TRUE(Says(ErrorOf(Number(1, 5)), "field 1: wire type 0"));
  EXPECT_TRUE(Says(ErrorOf(Good() + Piece("a", 0)), "tokens 5 and 9 are the same"));
  EXPECT_TRUE(Says(ErrorOf(Good() + Piece("\xff", 0)), "not UTF-8"));
  EXPECT_TRUE(Says(ErrorOf(Model(Number(3, 3), "")), "model type 3 is not supported"));
  EXPECT_TRUE(Says(ErrorOf(Model(Number(24, 1), "")), "treat_whitespace_as_suffix is not supported"));
  EXPECT_TRUE(Says(ErrorOf(Model(Number(40, UINT64_MAX - 1), "")), "field 40: -2 is no id"));
  EXPECT_TRUE(Says(ErrorOf(Model(Bytes(3, "x"), "")), "trainer_spec field 3: wire type 2"));
  EXPECT_TRUE(Says(ErrorOf(Model("", Bytes(2, "map"))), "a precompiled map of characters is not supported"));
  EXPECT_TRUE(Says(ErrorOf(Model("", Number(5, 0))), "escape_whitespaces false is not supported"));
  EXPECT_TRUE(Says(ErrorOf(std::string("\x0a\xff\xff\xff\xff\x0f", 6)), "byte 6: field 1 has 4294967295 bytes, 0 are left"));
  EXPECT_TRUE(Says(ErrorOf("\x0b"), "wire type 3, expected 0, 1, 2 or 5"));
  EXPECT_TRUE(Says(ErrorOf(std::string(11, '\xff')), "a number of more than 10 bytes"));
  EXPECT_TRUE(Says(ErrorOf(std::string("\x00", 1)), "field 0 is unknown"));
}

TEST(SentencePieceTest, CutAnywhereItIsAnErrorOrAShorterModel) {
  const std::string good = Good();
  for (size_t size = 0; size < good.size(); ++size) {
    const auto vocabulary = ParseSentencePiece(good.substr(0, size), "m");
    if (vocabulary) {
      EXPECT_LE(vocabulary->tokens.size(), 9u);
    }
  }
}

}  // namespace
}  // namespace frugal
