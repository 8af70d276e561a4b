// Any bytes as a tokenizer.json: an error or a tokenizer that works, never a crash or gigabytes.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "src/base/check.h"
#include "src/text/tokenizer.h"
#include "src/text/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace frugal;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto vocabulary = ParseTokenizerJson(text, "fuzz");
  if (!vocabulary) return 0;
  const auto tokenizer = Tokenizer::Create(*vocabulary, "fuzz");
  if (!tokenizer) return 0;
  const auto ids = tokenizer->Encode("ab aab</s> <s>\n  b\u00e9word", SpecialTokens::kAdd);
  // An expression of the file may be given up.
  if (!ids) {
    CHECK(ids.error().code == ErrorCode::kFailed);
    return 0;
  }
  for (const int32_t id : *ids) CHECK(id >= 0 && id < tokenizer->vocab_size());
  CHECK(!FindInvalidUtf8(tokenizer->Decode(*ids, ShowSpecial::kYes)).has_value());
  for (const int32_t id : *ids) tokenizer->TokenBytes(id, TokenPlace::kFirst);
  return 0;
}
