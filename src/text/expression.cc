#define PCRE2_CODE_UNIT_WIDTH 8
#include "src/text/expression.h"

#include <pcre2.h>

#include <algorithm>
#include <utility>

#include "src/text/oniguruma.h"
#include "src/text/utf8.h"

namespace frugal {
namespace {

// PCRE2's own default, and enough steps for the longest match of the usual expressions, which try each character of a run a few times.
constexpr uint64_t kMinSteps = 10'000'000;
constexpr uint64_t kStepsPerByte = 8;
constexpr uint32_t kMaxHeapKib = 64 << 10;

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
using Code = std::unique_ptr<pcre2_code, CodeDeleter>;

Result<Code> CompileTranslated(const std::string& translated) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  // In Ruby's syntax, which `tokenizers` uses, ^ and $ are those of lines.
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                          PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                          nullptr));
  if (code == nullptr) {
    PCRE2_UCHAR reason[128] = {};
    pcre2_get_error_message(error, reason, sizeof(reason));
    return BadModel("{} at byte {} of {}", reinterpret_cast<const char*>(reason), offset, Quoted(translated));
  }
  return code;
}

}  // namespace

struct Expression::Impl {
  std::string literal;
  Code code;  // nullptr: literal
};

Expression::Expression(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Expression::Expression(Expression&&) noexcept = default;
Expression& Expression::operator=(Expression&&) noexcept = default;
Expression::~Expression() = default;

Result<Expression> Expression::Compile(const TextPattern& pattern) {
  if (pattern.text.empty()) return BadModel("a pattern is empty");
  if (pattern.text.size() > kMaxPatternBytes) {
    return BadModel("a pattern has {} bytes, at most {} are supported", pattern.text.size(), kMaxPatternBytes);
  }
  auto impl = std::make_unique<Impl>();
  if (pattern.kind == TextPattern::Kind::kLiteral) {
    impl->literal = pattern.text;
    return Expression(std::move(impl));
  }
  // PCRE2's \p{Han} has the script's extensions too, Oniguruma's has not: names of scripts are spelled so that both mean the same.
  const auto is_script = [](std::string_view name) {
    return CompileTranslated(fmt::format("\\p{{sc:{}}}", name)).has_value();
  };
  Result<std::string> translated = TranslateOniguruma(pattern.text, is_script);
  if (!translated) return WithContext(std::move(translated).error(), "expression " + Quoted(pattern.text));
  Result<Code> code = CompileTranslated(*translated);
  if (!code) return WithContext(std::move(code).error(), "expression " + Quoted(pattern.text));
  impl->code = *std::move(code);
  return Expression(std::move(impl));
}

Expression::Scratch::Scratch(uint64_t text_bytes)
    : match_data_(pcre2_match_data_create(1, nullptr)), match_context_(pcre2_match_context_create(nullptr)) {
  if (match_context_ == nullptr) return;
  auto* context = static_cast<pcre2_match_context*>(match_context_);
  const uint64_t steps = std::min<uint64_t>(std::max(kMinSteps, kStepsPerByte * text_bytes), UINT32_MAX);
  pcre2_set_match_limit(context, static_cast<uint32_t>(steps));
  pcre2_set_heap_limit(context, kMaxHeapKib);
}

Expression::Scratch::~Scratch() {
  pcre2_match_data_free(static_cast<pcre2_match_data*>(match_data_));
  pcre2_match_context_free(static_cast<pcre2_match_context*>(match_context_));
}

Result<std::optional<Expression::Match>> Expression::Find(std::string_view text, size_t from,
                                                          Scratch& scratch) const {
  if (impl_->code == nullptr) {
    const size_t at = text.find(impl_->literal, from);
    if (at == std::string_view::npos) return std::optional<Match>();
    return std::optional(Match{at, at + impl_->literal.size()});
  }
  auto* match = static_cast<pcre2_match_data*>(scratch.match_data_);
  auto* context = static_cast<pcre2_match_context*>(scratch.match_context_);
  if (match == nullptr || context == nullptr) {
    return MakeError(ErrorCode::kOutOfMemory, "no memory to split text into words");
  }
  const int count = pcre2_match(impl_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                from, PCRE2_NO_UTF_CHECK, match, context);
  if (count == PCRE2_ERROR_NOMATCH) return std::optional<Match>();
  if (count < 0) {
    const ErrorCode code = count == PCRE2_ERROR_NOMEMORY ? ErrorCode::kOutOfMemory : ErrorCode::kFailed;
    return MakeError(code, "splitting the text into words failed at byte {}: PCRE2 error {}", from, count);
  }
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match);
  // \K in a lookahead can put the beginning behind the end, or before `from`.
  if (bounds[0] < from || bounds[1] < bounds[0]) {
    return MakeError(ErrorCode::kFailed, "splitting the text into words failed at byte {}: an expression matches backwards",
                     from);
  }
  return std::optional(Match{bounds[0], bounds[1]});
}

Status Expression::ForEachPart(std::string_view text, Scratch& scratch,
                               FunctionRef<Status(size_t begin, size_t end, bool is_match)> part) const {
  size_t done = 0;
  for (size_t from = 0; from <= text.size();) {
    FRUGAL_ASSIGN(const std::optional<Match> match, Find(text, from, scratch));
    if (!match) break;
    const bool is_empty = match->begin == match->end;
    // An empty match at the end of the one before counts for nothing.
    if (!is_empty || match->begin > done || done == 0) {
      if (done < match->begin) FRUGAL_TRY(part(done, match->begin, false));
      FRUGAL_TRY(part(match->begin, match->end, true));
      done = match->end;
    }
    from = match->end;
    if (is_empty) from += from < text.size() ? NextUtf8(text.substr(from)).size_bytes : 1;
  }
  if (done < text.size()) return part(done, text.size(), false);
  return {};
}

uint64_t Expression::memory_bytes() const {
  size_t code_bytes = 0;
  if (impl_->code != nullptr) pcre2_pattern_info(impl_->code.get(), PCRE2_INFO_SIZE, &code_bytes);
  return sizeof(Impl) + impl_->literal.capacity() + code_bytes;
}

}  // namespace frugal
