// Any bytes as vocab.json, a NUL byte, and merges.txt.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "src/base/check.h"
#include "src/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace frugal;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(text.find('\0'), size);
  const auto vocabulary =
      ParseVocabAndMerges(text.substr(0, end), text.substr(std::min(end + 1, size)), "fuzz");
  if (!vocabulary) return 0;
  const auto tokenizer = Tokenizer::Create(*vocabulary, "fuzz");
  if (!tokenizer) return 0;
  const auto ids = tokenizer->Encode("ab aab</s> <s>\n  b<|endoftext|>", SpecialTokens::kAdd);
  CHECK(ids.has_value());
  for (const int32_t id : *ids) CHECK(id >= 0 && id < tokenizer->vocab_size());
  return 0;
}
