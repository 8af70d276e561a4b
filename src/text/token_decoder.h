// Tokens back to text, by the decoder of a pipeline. Immutable; any thread may use it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/text/pipeline.h"
#include "src/text/token_table.h"

namespace frugal {

// Whether a token is the first of a text: some decoders drop a space there.
enum class TokenPlace { kFirst, kLater };

class TokenDecoder {
 public:
  explicit TokenDecoder(std::vector<DecodeStep> steps) : steps_(std::move(steps)) {}

  // What `tokenizers` gives for these tokens, each an id of the table; U+FFFD stands for what is no UTF-8.
  std::string Decode(std::span<const int32_t> ids, const TokenTable& table) const;
  // The bytes of one token, which may be a part of a character. Joined they are what Decode gives, where that has no U+FFFD and nothing
  // is dropped from the end.
  std::string TokenBytes(uint32_t id, TokenPlace place, const TokenTable& table) const;

  uint64_t memory_bytes() const;

 private:
  bool IsByteLevelAlone() const;

  std::vector<DecodeStep> steps_;
};

}  // namespace frugal
