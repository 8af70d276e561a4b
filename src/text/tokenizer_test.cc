#include "src/text/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "src/base/random.h"
#include "src/text/byte_alphabet.h"
#include "src/text/tokenizer_builder.h"

namespace frugal {
namespace {

using Ids = std::vector<int32_t>;

// All 256 bytes (ids 0 to 255), then `extra` and `merges`.
Vocabulary Bytes(const std::vector<std::string>& extra = {}, const std::vector<std::string>& merges = {}) {
  Vocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.push_back(SpellByteLevel(std::string(1, static_cast<char>(byte))));
  }
  for (const std::string& token : extra) vocabulary.tokens.push_back(token);
  vocabulary.kinds.assign(vocabulary.tokens.size(), TokenKind::kNormal);
  vocabulary.merges = merges;
  return vocabulary;
}

// Adds `content` as the next id.
void Add(Vocabulary& vocabulary, std::string_view content, uint32_t flags) {
  const int32_t id = static_cast<int32_t>(vocabulary.tokens.size());
  vocabulary.added_tokens.push_back(MakeAddedToken(id, content, flags));
  vocabulary.tokens.emplace_back(content);
  vocabulary.kinds.push_back(flags & 1 ? TokenKind::kControl : TokenKind::kUserDefined);
}

Tokenizer Make(const Vocabulary& vocabulary) {
  auto tokenizer = Tokenizer::Create(vocabulary, "test");
  EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  return *std::move(tokenizer);
}

std::string ErrorOf(const Vocabulary& vocabulary) {
  const auto tokenizer = Tokenizer::Create(vocabulary, "x.gguf");
  if (tokenizer) return "no error";
  EXPECT_EQ(tokenizer.error().code, ErrorCode::kBadModel);
  EXPECT_TRUE(tokenizer.error().message.starts_with("x.gguf: ")) << tokenizer.error().message;
  return tokenizer.error().message;
}

Ids Encode(const Tokenizer& tokenizer, std::string_view text) {
  auto ids = tokenizer.Encode(text, SpecialTokens::kAdd);
  EXPECT_TRUE(ids.has_value()) << ids.error().message;
  return *std::move(ids);
}

testing::AssertionResult Says(const std::string& message, std::string_view part) {
  if (message.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << message << " does not say " << part;
}

TEST(TokenizerTest, MergesTheLowestRankFirstAndTheLeftmostOfEqualOnes) {
  const Tokenizer tokenizer = Make(Bytes({"bc", "ab", "aa", "aaa"}, {"b c", "a b", "a a", "aa a"}));
  EXPECT_EQ(Encode(tokenizer, "abc"), (Ids{'a', 256}));
  EXPECT_EQ(Encode(tokenizer, "ab"), (Ids{257}));
  EXPECT_EQ(Encode(tokenizer, "aaaaa"), (Ids{258, 259}));
}

TEST(TokenizerTest, ARepeatedMergeHasItsLastRank) {
  const Tokenizer tokenizer = Make(Bytes({"ab", "bc"}, {"a b", "b c", "a b"}));
  EXPECT_EQ(Encode(tokenizer, "abc"), (Ids{'a', 257}));
}

// Ground truth of BPE: look for the best pair in the whole word, merge it, begin again.
Ids MergeNaively(Ids symbols, const std::map<std::pair<int32_t, int32_t>, std::pair<int, int32_t>>& merges) {
  for (;;) {
    int best_rank = INT32_MAX;
    size_t best = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto at = merges.find({symbols[i], symbols[i + 1]});
      if (at != merges.end() && at->second.first < best_rank) {
        best_rank = at->second.first;
        best = i;
      }
    }
    if (best_rank == INT32_MAX) return symbols;
    symbols[best] = merges.at({symbols[best], symbols[best + 1]}).second;
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

TEST(TokenizerTest, AgreesWithNaiveMergingOnRandomVocabularies) {
  constexpr uint64_t kSeed = 20260511;
  std::printf("seed %lu\n", static_cast<unsigned long>(kSeed));
  Random random(kSeed);
  for (int round = 0; round < 50; ++round) {
    std::map<std::pair<int32_t, int32_t>, std::pair<int, int32_t>> merges;
    Vocabulary vocabulary = Bytes();
    std::vector<int32_t> usable = {'a', 'b', 'c'};
    while (merges.size() < 40) {
      const int32_t left = usable[random.Below(usable.size())], right = usable[random.Below(usable.size())];
      const std::string joined = vocabulary.tokens[left] + vocabulary.tokens[right];
      const auto known = std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), joined);
      const int32_t id = static_cast<int32_t>(known - vocabulary.tokens.begin());
      if (!merges.try_emplace({left, right}, static_cast<int>(merges.size()), id).second) continue;
      vocabulary.merges.push_back(vocabulary.tokens[left] + " " + vocabulary.tokens[right]);
      if (known == vocabulary.tokens.end()) {
        vocabulary.tokens.push_back(joined);
        vocabulary.kinds.push_back(TokenKind::kNormal);
        usable.push_back(id);
      }
    }
    const Tokenizer tokenizer = Make(vocabulary);
    for (int text_number = 0; text_number < 20; ++text_number) {
      std::string text;
      for (uint64_t size = 1 + random.Below(200); text.size() < size;) text += "abc"[random.Below(3)];
      EXPECT_EQ(Encode(tokenizer, text), MergeNaively(Ids(text.begin(), text.end()), merges)) << text;
    }
  }
}

TEST(TokenizerTest, FlagsOfAddedTokensDecideWhatTheyTake) {
  Vocabulary vocabulary = Bytes();
  Add(vocabulary, "<l>", 1 | 2);
  Add(vocabulary, "<r>", 1 | 4);
  Add(vocabulary, "<lr>", 1 | 2 | 4);
  Add(vocabulary, "word", 8);
  Add(vocabulary, "  ", 0);
  const Tokenizer tokenizer = Make(vocabulary);
  EXPECT_EQ(Encode(tokenizer, "a <l> b"), (Ids{'a', 256, ' ', 'b'}));
  EXPECT_EQ(Encode(tokenizer, "a <r> b"), (Ids{'a', ' ', 257, 'b'}));
  EXPECT_EQ(Encode(tokenizer, "a\n<lr>\u00A0b"), (Ids{'a', 258, 'b'}));
  EXPECT_EQ(Encode(tokenizer, "word,word"), (Ids{259, ',', 259}));
  EXPECT_EQ(Encode(tokenizer, "words"), (Ids{'w', 'o', 'r', 'd', 's'}));
  EXPECT_EQ(Encode(tokenizer, "\u00E9word"), (Ids{0xC3, 0xA9, 'w', 'o', 'r', 'd'}));
  EXPECT_EQ(Encode(tokenizer, "a   b"), (Ids{'a', 260, ' ', 'b'}));
}

TEST(TokenizerTest, TakesTheLongestAddedTokenAndTheRawOnesFirst) {
  Vocabulary vocabulary = Bytes();
  Add(vocabulary, "<a", 0);
  Add(vocabulary, "<ab>", 0);
  Add(vocabulary, "x<a", 16);
  const Tokenizer tokenizer = Make(vocabulary);
  EXPECT_EQ(Encode(tokenizer, "<ab><ab"), (Ids{257, 256, 'b'}));
  EXPECT_EQ(Encode(tokenizer, "x<a"),
            (Ids{'x', 256}));  // the normalised pass only sees what the raw one left
}

TEST(TokenizerTest, SpecialTokensAreAddedAndSkippedOnDemand) {
  Vocabulary vocabulary = Bytes();
  Add(vocabulary, "</s>", 1);
  Add(vocabulary, "<u>", 0);
  vocabulary.prefix_ids = {256};
  vocabulary.suffix_ids = {257, 256};
  const Tokenizer tokenizer = Make(vocabulary);
  EXPECT_EQ(Encode(tokenizer, "a"), (Ids{256, 'a', 257, 256}));
  EXPECT_EQ(*tokenizer.Encode("a", SpecialTokens::kOmit), (Ids{'a'}));
  EXPECT_EQ(tokenizer.Decode(Ids{256, 'a', 257}, ShowSpecial::kYes), "</s>a<u>");
  EXPECT_EQ(tokenizer.Decode(Ids{256, 'a', 257}, ShowSpecial::kSkip), "a<u>");
  EXPECT_TRUE(tokenizer.IsSpecial(256));
  EXPECT_FALSE(tokenizer.IsSpecial(257));
  EXPECT_FALSE(tokenizer.IsSpecial(-1));
  EXPECT_FALSE(tokenizer.IsSpecial(1 << 30));
}

TEST(TokenizerTest, HolesAndIdsOutsideDecodeToNothing) {
  Vocabulary vocabulary = Bytes({"", "ab"});
  vocabulary.kinds[256] = TokenKind::kUnused;
  const Tokenizer tokenizer = Make(vocabulary);
  EXPECT_EQ(tokenizer.vocab_size(), 258);
  EXPECT_EQ(tokenizer.Decode(Ids{'x', 256, -1, 258, INT32_MAX, INT32_MIN, 257}, ShowSpecial::kYes), "xab");
}

TEST(TokenizerTest, AMissingByteIsTheUnknownTokenOrIsDropped) {
  Vocabulary vocabulary;
  vocabulary.tokens = {"<unk>", "a", "b", "ab"};
  vocabulary.kinds = {TokenKind::kUnknown, TokenKind::kNormal, TokenKind::kNormal, TokenKind::kNormal};
  vocabulary.merges = {"a b"};
  EXPECT_EQ(Encode(Make(vocabulary), "axb"), (Ids{3}));  // as `tokenizers` without unk_token: a and b meet
  vocabulary.unk_id = 0;
  EXPECT_EQ(Encode(Make(vocabulary), "axxb"), (Ids{1, 0, 0, 2}));
}

TEST(TokenizerTest, WordsAreSplitAsGpt2Does) {
  Vocabulary vocabulary = Bytes({"ab", "Ġa", "s'"}, {"a b", "Ġ a", "s '"});
  EXPECT_EQ(Encode(Make(vocabulary), "ab a s's"), (Ids{256, 257, ' ', 's', '\'', 's'}));
  vocabulary.use_regex = false;
  EXPECT_EQ(Encode(Make(vocabulary), "ab a s's"), (Ids{256, 257, ' ', 258, 's'}));
  vocabulary.add_prefix_space = true;
  EXPECT_EQ(Encode(Make(vocabulary), "a"), (Ids{257}));
}

TEST(TokenizerTest, IgnoreMergesTakesAWholeWordThatIsAToken) {
  Vocabulary vocabulary = Bytes({"abc", "bc"}, {"b c"});
  EXPECT_EQ(Encode(Make(vocabulary), "abc"), (Ids{'a', 257}));
  vocabulary.ignore_merges = true;
  EXPECT_EQ(Encode(Make(vocabulary), "abc"), (Ids{256}));
}

// B3: what a user may type.
TEST(TokenizerTest, B3LongWordsTakeNearLinearTime) {
  Vocabulary vocabulary = Bytes();
  // a a, aa aa, ...: every doubling up to 128 letters, so that merging has work to do.
  for (std::string run = "a"; run.size() < 128; run += run) {
    vocabulary.merges.push_back(run + " " + run);
    vocabulary.tokens.push_back(run + run);
    vocabulary.kinds.push_back(TokenKind::kNormal);
  }
  Add(vocabulary, "<r>", 4);
  const Tokenizer tokenizer = Make(vocabulary);
  // Quadratic time would be hours for these and minutes for the rest.
  constexpr size_t kBytes = 10'000'000;
  EXPECT_EQ(Encode(tokenizer, std::string(kBytes, 'a')).size(), kBytes / 128);
  EXPECT_EQ(Encode(tokenizer, std::string(kBytes, ' ')).size(), kBytes);
  constexpr size_t kFewerBytes = 1'000'000;
  EXPECT_EQ(Encode(tokenizer, std::string(kFewerBytes, ' ') + "x").size(), kFewerBytes + 1);
  EXPECT_EQ(Encode(tokenizer, std::string(kFewerBytes, '\0')).size(), kFewerBytes);
  EXPECT_EQ(Encode(tokenizer, "<r>" + std::string(kFewerBytes, ' ')).size(), 1u);
}

TEST(TokenizerTest, B3InvalidUtf8IsRefusedWithItsOffset) {
  const Tokenizer tokenizer = Make(Bytes());
  const std::vector<std::pair<std::string, int>> cases = {
      {"ab\xff", 2},           {"\xc3", 0},     {"a\xc3(", 1},           {"\xed\xa0\x80", 0},
      {"\xf4\x90\x80\x80", 0}, {"\xc0\xaf", 0}, {"\xe2\x82\xac\x80", 3}, {"x\xf0\x9f\x98", 1}};
  for (const auto& [text, offset] : cases) {
    const auto ids = tokenizer.Encode(text, SpecialTokens::kAdd);
    ASSERT_FALSE(ids.has_value());
    EXPECT_EQ(ids.error().code, ErrorCode::kUsage);
    EXPECT_TRUE(Says(ids.error().message, fmt::format("at byte {} of {}", offset, text.size())));
  }
}

TEST(TokenizerTest, EveryValidTextComesBack) {
  const Tokenizer tokenizer = Make(Bytes({"th", "the"}, {"t h", "th e"}));
  for (const std::string& text : {std::string("the\0re", 6), std::string("\u0378\U0010FFFF\uFFFF unassigned"),
                                  std::string("\u200b\u00a0\u2003\ufeff"),
                                  std::string("👩‍👩‍👧‍👦 שָׁלוֹם\r\n\t")}) {
    EXPECT_EQ(tokenizer.Decode(Encode(tokenizer, text), ShowSpecial::kYes), text);
  }
}

// B2: what a file may hold.
TEST(TokenizerTest, B2BadVocabulariesAreRefusedByName) {
  EXPECT_TRUE(Says(ErrorOf(Vocabulary{}), "no tokens"));
  EXPECT_TRUE(Says(ErrorOf(Bytes({"ab", "cd", "ab"})), "tokens 256 and 258 are the same: \"ab\""));
  EXPECT_TRUE(Says(ErrorOf(Bytes({""})), "token 256 is empty"));
  EXPECT_TRUE(Says(ErrorOf(Bytes({"a\xff"})), "token 256 \"a\\xff\": not UTF-8 at byte 1"));
  EXPECT_TRUE(Says(ErrorOf(Bytes({}, {"a b"})), "merge 0: its result \"ab\" is not in the vocabulary"));
  EXPECT_TRUE(Says(ErrorOf(Bytes({"ab"}, {"a b", "ab zz"})), "merge 1: \"zz\" is not in the vocabulary"));
  for (const char* merge : {"ab", "a  b", " ab", "ab ", "a b c", "", " "}) {
    EXPECT_TRUE(Says(ErrorOf(Bytes({"ab"}, {merge})), "expected two tokens")) << merge;
  }
  Vocabulary vocabulary = Bytes();
  vocabulary.kinds[3] = static_cast<TokenKind>(9);
  EXPECT_TRUE(Says(ErrorOf(vocabulary), "token 3: kind 9 is unknown"));
  vocabulary.kinds.pop_back();
  EXPECT_TRUE(Says(ErrorOf(vocabulary), "255 kinds of 256 tokens"));
}

TEST(TokenizerTest, B2BadSettingsAreRefusedByName) {
  const auto with = [](auto change) {
    Vocabulary vocabulary = Bytes();
    Add(vocabulary, "<s>", 1);
    change(vocabulary);
    return ErrorOf(vocabulary);
  };
  EXPECT_TRUE(Says(with([](Vocabulary& v) { v.model = "bert"; }), "\"bert\" is not supported"));
  EXPECT_TRUE(Says(with([](Vocabulary& v) { v.pre_tokenizer = "qwen99"; }), "\"qwen99\" is not supported"));
  EXPECT_TRUE(Says(with([](Vocabulary& v) { v.unk_id = 257; }), "unk: id 257"));
  EXPECT_TRUE(Says(with([](Vocabulary& v) { v.eos_id = -2; }), "eos: id -2"));
  EXPECT_TRUE(Says(with([](Vocabulary& v) { v.prefix_ids = {-1}; }), "post-processor: id -1"));
  EXPECT_TRUE(Says(with([](Vocabulary& v) { v.suffix_ids = {1 << 30}; }), "post-processor: id 1073741824"));
  EXPECT_TRUE(Says(with([](Vocabulary& v) { v.prefix_ids.assign(1000, 1); }), "adds 1000 and 0 tokens"));
  EXPECT_TRUE(Says(with([](Vocabulary& v) { v.added_tokens[0].id = -5; }), "id -5 is not an added token"));
  EXPECT_TRUE(Says(with([](Vocabulary& v) { v.added_tokens[0].id = 7; }), "id 7 is not an added token"));
  EXPECT_TRUE(
      Says(with([](Vocabulary& v) { v.added_tokens[0].content = "<t>"; }), "id 256 is another token"));
  EXPECT_TRUE(Says(with([](Vocabulary& v) { v.added_tokens.push_back(v.added_tokens[0]); }), "id 256 twice"));
  EXPECT_TRUE(Says(with([](Vocabulary& v) { v.added_tokens[0].special = false; }), "its kind says special"));
  EXPECT_TRUE(
      Says(with([](Vocabulary& v) { Add(v, std::string(1000, 'x'), 0); }), "1000 bytes, at most 512"));
}

TEST(TokenizerTest, B2ALongTokenIsUsed) {
  const std::string half(50'000, 'a');
  const Tokenizer tokenizer = Make(Bytes({half, half + half}, {half + " " + half}));
  EXPECT_EQ(tokenizer.max_token_bytes(), 100'000u);
  EXPECT_EQ(tokenizer.TokenBytes(257), half + half);
}

TEST(TokenizerBuilderTest, CountsMustBeTrueAndBounded) {
  const Vocabulary settings;
  {
    TokenizerBuilder builder(settings, 2, 0, 2);
    EXPECT_TRUE(builder.AddToken("a", TokenKind::kNormal).has_value());
    EXPECT_TRUE(Says(builder.Finish("x").error().message, "x: 1 tokens, 2 were announced"));
  }
  {
    TokenizerBuilder builder(settings, 1, 1, 2);
    EXPECT_TRUE(Says(builder.AddToken("abc", TokenKind::kNormal).error().message, "the 2 bytes announced"));
    EXPECT_TRUE(builder.AddToken("a", TokenKind::kNormal).has_value());
    EXPECT_TRUE(Says(builder.AddToken("b", TokenKind::kNormal).error().message, "more than the 1 tokens"));
    EXPECT_TRUE(Says(builder.Finish("x").error().message, "0 merges, 1 were announced"));
  }
  // Nothing of this size is allocated.
  for (const uint64_t huge : {uint64_t{1} << 31, UINT64_MAX}) {
    EXPECT_FALSE(TokenizerBuilder(settings, huge, 0, 1).AddToken("a", TokenKind::kNormal).has_value());
    EXPECT_FALSE(TokenizerBuilder(settings, 1, huge, 1).AddToken("a", TokenKind::kNormal).has_value());
    EXPECT_FALSE(TokenizerBuilder(settings, 1, 0, huge).AddToken("a", TokenKind::kNormal).has_value());
  }
}

TEST(TokenizerBuilderTest, KindsAloneMakeAddedTokens) {
  Vocabulary vocabulary = Bytes();
  Add(vocabulary, "<s>", 1);
  Add(vocabulary, "<u>", 0);
  vocabulary.added_tokens.clear();
  const Tokenizer tokenizer = Make(vocabulary);
  EXPECT_EQ(Encode(tokenizer, "<s><u>"), (Ids{256, 257}));
  EXPECT_EQ(tokenizer.Decode(Ids{256, 257}, ShowSpecial::kSkip), "<u>");
}

TEST(TokenizerTest, MemoryIsKnownBefore) {
  Vocabulary vocabulary = Bytes();
  uint64_t token_bytes = 0;
  for (char a = 'a'; a <= 'z'; ++a) {
    for (char b = 'a'; b <= 'z'; ++b) {
      for (char c = 'a'; c <= 'c'; ++c) {
        const std::string pair{a, b};
        if (c == 'a') vocabulary.merges.push_back(std::string{a} + " " + b);
        if (c == 'a') vocabulary.tokens.push_back(pair);
        vocabulary.merges.push_back(pair + " " + c);
        vocabulary.tokens.push_back(pair + c);
      }
    }
  }
  vocabulary.kinds.assign(vocabulary.tokens.size(), TokenKind::kNormal);
  Add(vocabulary, "</s>", 1);
  for (const std::string& token : vocabulary.tokens) token_bytes += token.size();
  const Tokenizer tokenizer = Make(vocabulary);
  const uint64_t estimate =
      Tokenizer::EstimateMemoryBytes(vocabulary.tokens.size(), vocabulary.merges.size(), token_bytes);
  EXPECT_GE(estimate, tokenizer.memory_bytes());
  EXPECT_LE(estimate, tokenizer.memory_bytes() * 105 / 100);
}

TEST(TokenizerTest, FindsTokensBySpelling) {
  Vocabulary vocabulary = Bytes({"Ġthe"});
  Add(vocabulary, "  ", 0);  // spaces are no letters of the byte-level alphabet, so this is not "ĠĠ"
  const Tokenizer tokenizer = Make(vocabulary);
  EXPECT_EQ(tokenizer.FindToken("Ġthe"), 256);
  EXPECT_EQ(tokenizer.FindToken("  "), 257);
  EXPECT_EQ(tokenizer.FindToken("ĠĠ"), -1);
  EXPECT_EQ(tokenizer.FindToken(""), -1);
}

TEST(Utf8StreamTest, GivesWholeCharactersOnly) {
  Utf8Stream stream;
  EXPECT_EQ(stream.Push("a\xe2\x82"), "a");
  EXPECT_EQ(stream.Push("\xac"), "€");
  EXPECT_EQ(stream.Push("\xf0\x9f\x98"), "");
  EXPECT_EQ(stream.Push("x"), "\uFFFDx");
  EXPECT_EQ(stream.Push("\xff"), "\uFFFD");
  EXPECT_EQ(stream.Flush(), "");
  EXPECT_EQ(stream.Push("\xc3"), "");
  EXPECT_EQ(stream.Flush(), "\uFFFD");
  EXPECT_EQ(stream.Flush(), "");
}

TEST(Utf8StreamTest, EqualsDecodingTheWhole) {
  const Tokenizer tokenizer = Make(Bytes());
  constexpr uint64_t kSeed = 7;
  std::printf("seed %lu\n", static_cast<unsigned long>(kSeed));
  Random random(kSeed);
  for (int round = 0; round < 2000; ++round) {
    constexpr uint8_t kBytes[] = {'a',  0x80, 0xBF, 0xC3, 0xE2, 0x82, 0xED,
                                  0xA0, 0xF0, 0x9F, 0xF4, 0x90, 0xFF};
    Ids ids;
    for (uint64_t i = random.Below(12); i > 0; --i) ids.push_back(kBytes[random.Below(sizeof(kBytes))]);
    Utf8Stream stream;
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.Push(tokenizer.TokenBytes(id));
    EXPECT_EQ(streamed + stream.Flush(), tokenizer.Decode(ids, ShowSpecial::kYes));
  }
}

}  // namespace
}  // namespace frugal
