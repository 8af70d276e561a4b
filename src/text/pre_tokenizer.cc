#define PCRE2_CODE_UNIT_WIDTH 8
#include "src/text/pre_tokenizer.h"

#include <pcre2.h>

#include <utility>

namespace frugal {
namespace {

// GPT-2's expression (Radford et al. 2019, encoder.py). Its \s is the property White_Space: PCRE2's own \s
// also takes U+180E, which has not been a space since Unicode 6.3.
constexpr char kWords[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+)"
                          R"(|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+)";

// \w of Rust's regex crate (Unicode TR 18, annex C).
constexpr char kWordCharacter[] = R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])";

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
using Code = std::unique_ptr<pcre2_code, CodeDeleter>;

Result<Code> Compile(std::string_view pattern, uint32_t options) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                          PCRE2_UTF | PCRE2_UCP | options, &error, &offset, nullptr));
  if (code == nullptr) {
    return MakeError(ErrorCode::kFailed, "PCRE2 refuses the expression for words at {}: error {}", offset,
                     error);
  }
  return code;
}

uint64_t SizeOf(const pcre2_code* code) {
  size_t size_bytes = 0;
  pcre2_pattern_info(code, PCRE2_INFO_SIZE, &size_bytes);
  return size_bytes;
}

}  // namespace

struct PreTokenizer::Impl {
  Code words;
  Code word_character;
};

PreTokenizer::PreTokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

Result<PreTokenizer> PreTokenizer::Create() {
  auto impl = std::make_unique<Impl>();
  FRUGAL_ASSIGN(impl->words, Compile(kWords, 0));
  FRUGAL_ASSIGN(impl->word_character, Compile(kWordCharacter, PCRE2_ANCHORED));
  return PreTokenizer(std::move(impl));
}

PreTokenizer::Scratch::Scratch(const PreTokenizer& pre_tokenizer)
    : match_data_(pcre2_match_data_create_from_pattern(pre_tokenizer.impl_->words.get(), nullptr)) {}

PreTokenizer::Scratch::~Scratch() { pcre2_match_data_free(static_cast<pcre2_match_data*>(match_data_)); }

Status PreTokenizer::Split(std::string_view text, Scratch& scratch,
                           FunctionRef<void(std::string_view)> word) const {
  auto* match = static_cast<pcre2_match_data*>(scratch.match_data_);
  if (match == nullptr) return MakeError(ErrorCode::kOutOfMemory, "no memory to split text into words");
  for (size_t begin = 0; begin < text.size();) {
    // Anchored: some alternative takes every character, so that the next word always begins here.
    const int count = pcre2_match(impl_->words.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                  begin, PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED, match, nullptr);
    if (count <= 0) {
      const ErrorCode code = count == PCRE2_ERROR_NOMEMORY ? ErrorCode::kOutOfMemory : ErrorCode::kFailed;
      return MakeError(code, "splitting the text into words failed at byte {}: PCRE2 error {}", begin, count);
    }
    const size_t end = pcre2_get_ovector_pointer(match)[1];
    word(text.substr(begin, end - begin));
    begin = end;
  }
  return {};
}

bool PreTokenizer::StartsWithWordCharacter(std::string_view text, Scratch& scratch) const {
  auto* match = static_cast<pcre2_match_data*>(scratch.match_data_);
  return match != nullptr &&
         pcre2_match(impl_->word_character.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                     PCRE2_NO_UTF_CHECK, match, nullptr) > 0;
}

uint64_t PreTokenizer::memory_bytes() const {
  return sizeof(Impl) + SizeOf(impl_->words.get()) + SizeOf(impl_->word_character.get());
}

}  // namespace frugal
