// Any bytes as a text, for a tokenizer that has all bytes and no odd added tokens: what is not UTF-8 is
// refused, what is comes back from its ids, whole and in a stream.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/check.h"
#include "src/text/byte_alphabet.h"
#include "src/text/tokenizer.h"
#include "src/text/utf8.h"

namespace {

frugal::Tokenizer MakeTokenizer() {
  using namespace frugal;
  Vocabulary vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.push_back(SpellByteLevel(std::string(1, static_cast<char>(byte))));
  }
  for (const char* merge : {"a b", "ab a", "a a", "aa aa", "Ġ a", "Ġ Ġ", "Ã ©", "' s", "s 's"}) {
    std::string token(merge);
    token.erase(token.find(' '), 1);
    vocabulary.merges.emplace_back(merge);
    vocabulary.tokens.push_back(token);
  }
  vocabulary.kinds.assign(vocabulary.tokens.size(), TokenKind::kNormal);
  for (const char* content : {"</s>", "<s>", "</", "  "}) {
    vocabulary.kinds.push_back(TokenKind::kUserDefined);
    vocabulary.tokens.emplace_back(content);
  }
  auto tokenizer = Tokenizer::Create(vocabulary, "fuzz");
  CHECK(tokenizer.has_value());
  return *std::move(tokenizer);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace frugal;
  static const Tokenizer tokenizer = MakeTokenizer();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto ids = tokenizer.Encode(text, SpecialTokens::kAdd);
  CHECK(ids.has_value() == !FindInvalidUtf8(text).has_value());
  if (ids) CHECK(tokenizer.Decode(*ids, ShowSpecial::kYes) == text);
  // Bytes as ids: broken characters, cut anywhere.
  std::vector<int32_t> bytes(data, data + size);
  for (int32_t& id : bytes) id = tokenizer.FindToken(SpellByteLevel(std::string(1, static_cast<char>(id))));
  Utf8Stream stream;
  std::string streamed;
  for (const int32_t id : bytes) streamed += stream.Push(tokenizer.TokenBytes(id));
  streamed += stream.Flush();
  CHECK(streamed == tokenizer.Decode(bytes, ShowSpecial::kYes));
  CHECK(!FindInvalidUtf8(streamed).has_value());
  return 0;
}
