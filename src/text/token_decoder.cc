#include "src/text/token_decoder.h"

#include <algorithm>
#include <optional>

#include "src/text/byte_alphabet.h"
#include "src/text/utf8.h"

namespace frugal {
namespace {

constexpr std::string_view kReplacement = "\uFFFD";

using Tokens = std::vector<std::string>;

// The token as the vocabulary spells it.
std::string SpellingOf(uint32_t id, const TokenTable& table) {
  return table.form_is_bytes(id) ? SpellByteLevel(table.bytes(id)) : std::string(table.bytes(id));
}

// Whole characters and U+FFFD for what is broken.
std::string Lossy(std::string_view bytes) {
  std::string out;
  while (!bytes.empty()) {
    const Utf8Step step = NextUtf8(bytes);
    out += step.state == Utf8State::kWhole ? bytes.substr(0, step.size_bytes) : kReplacement;
    bytes.remove_prefix(step.size_bytes);
  }
  return out;
}

std::string Replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (size_t at; (at = text.find(from)) != std::string_view::npos;) {
    out.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
  }
  return out.append(text);
}

std::string_view Stripped(std::string_view text, const DecodeStep& step) {
  for (uint32_t i = 0; i < step.start && text.starts_with(step.from); ++i) text.remove_prefix(step.from.size());
  for (uint32_t i = 0; i < step.stop && text.ends_with(step.from); ++i) text.remove_suffix(step.from.size());
  return text;
}

std::string WithSpaces(std::string_view text, const DecodeStep& step, TokenPlace place) {
  return Replaced(text, step.from, step.drops_first && place == TokenPlace::kFirst ? "" : " ");
}

// Bytes in a row are text together; U+FFFD for each when they are not.
void FallBack(Tokens& tokens) {
  Tokens out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (!FindInvalidUtf8(bytes)) {
      out.push_back(bytes);
    } else {
      for (size_t i = 0; i < bytes.size(); ++i) out.emplace_back(kReplacement);
    }
    bytes.clear();
  };
  for (std::string& token : tokens) {
    if (const std::optional<uint8_t> byte = ParseByteToken(token)) {
      bytes.push_back(static_cast<char>(*byte));
      continue;
    }
    flush();
    out.push_back(std::move(token));
  }
  flush();
  tokens = std::move(out);
}

std::string Joined(const Tokens& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

// Bytes that a spelled token stands for; a token that is not of the alphabet stands for its own.
std::string ByteLevelBytes(const std::string& token) {
  std::string bytes;
  return TryDecodeByteLevel(token, bytes) ? bytes : token;
}

void Apply(const DecodeStep& step, Tokens& tokens) {
  switch (step.kind) {
    case DecodeStep::Kind::kByteLevel:
      for (std::string& token : tokens) token = ByteLevelBytes(token);
      tokens = {Lossy(Joined(tokens))};
      return;
    case DecodeStep::Kind::kReplace:
      for (std::string& token : tokens) token = Replaced(token, step.from, step.to);
      return;
    case DecodeStep::Kind::kByteFallback: return FallBack(tokens);
    case DecodeStep::Kind::kFuse: tokens = {Joined(tokens)}; return;
    case DecodeStep::Kind::kStrip:
      for (std::string& token : tokens) token = std::string(Stripped(token, step));
      return;
    case DecodeStep::Kind::kMetaspace:
      for (size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = WithSpaces(tokens[i], step, i == 0 ? TokenPlace::kFirst : TokenPlace::kLater);
      }
      return;
  }
}

}  // namespace

bool TokenDecoder::IsByteLevelAlone() const {
  return steps_.size() == 1 && steps_[0].kind == DecodeStep::Kind::kByteLevel;
}

std::string TokenDecoder::Decode(std::span<const int32_t> ids, const TokenTable& table) const {
  if (IsByteLevelAlone()) {
    std::string bytes;
    for (const int32_t id : ids) bytes += TokenBytes(static_cast<uint32_t>(id), TokenPlace::kLater, table);
    return Lossy(bytes);
  }
  Tokens tokens;
  for (const int32_t id : ids) {
    // A hole is no token.
    if (!table.bytes(static_cast<uint32_t>(id)).empty()) tokens.push_back(SpellingOf(static_cast<uint32_t>(id), table));
  }
  for (const DecodeStep& step : steps_) Apply(step, tokens);
  return Joined(tokens);
}

std::string TokenDecoder::TokenBytes(uint32_t id, TokenPlace place, const TokenTable& table) const {
  if (IsByteLevelAlone() && table.spelling() == TokenSpelling::kByteLevel) return std::string(table.bytes(id));
  std::string text = SpellingOf(id, table);
  bool fused = false;
  for (const DecodeStep& step : steps_) {
    switch (step.kind) {
      case DecodeStep::Kind::kByteLevel: text = ByteLevelBytes(text); break;
      case DecodeStep::Kind::kReplace: text = Replaced(text, step.from, step.to); break;
      case DecodeStep::Kind::kByteFallback:
        if (const std::optional<uint8_t> byte = ParseByteToken(text)) text = static_cast<char>(*byte);
        break;
      case DecodeStep::Kind::kFuse: fused = true; break;
      case DecodeStep::Kind::kStrip: {
        // Behind kFuse the whole text is stripped, of which this is the first token or is not.
        DecodeStep here = step;
        if (fused) here.stop = 0;
        if (!fused || place == TokenPlace::kFirst) text = std::string(Stripped(text, here));
        break;
      }
      case DecodeStep::Kind::kMetaspace: text = WithSpaces(text, step, place); break;
    }
  }
  return text;
}

uint64_t TokenDecoder::memory_bytes() const { return steps_.capacity() * sizeof(DecodeStep); }

}  // namespace frugal
