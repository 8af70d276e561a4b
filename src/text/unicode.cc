#include "src/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "src/text/utf8.h"

namespace frugal {
namespace {

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

utf8proc_option_t OptionsOf(UnicodeForm form) {
  const bool compat = form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd;
  const unsigned options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
  return static_cast<utf8proc_option_t>(options);
}

// utf8proc sorts by exchanging neighbours, which takes quadratic time: a text may be nothing but marks.
void SortMarks(std::vector<utf8proc_int32_t>& characters) {
  const auto mark_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (size_t begin = 0; begin < characters.size();) {
    size_t end = begin;
    while (end < characters.size() && mark_class(characters[end]) != 0) ++end;
    if (end - begin > 1) {
      std::stable_sort(characters.begin() + static_cast<ptrdiff_t>(begin),
                       characters.begin() + static_cast<ptrdiff_t>(end),
                       [&](utf8proc_int32_t a, utf8proc_int32_t b) { return mark_class(a) < mark_class(b); });
    }
    begin = end + 1;
  }
}

}  // namespace

std::string Normalized(std::string_view text, UnicodeForm form) {
  if (IsAscii(text)) return std::string(text);
  constexpr utf8proc_ssize_t kMaxParts = 32;  // no character has more than 18 (U+FDFA)
  std::vector<utf8proc_int32_t> characters;
  characters.reserve(text.size());
  int boundary = UTF8PROC_BOUNDCLASS_START;
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    text.remove_prefix(step.size_bytes);
    utf8proc_int32_t parts[kMaxParts];
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.code_point), parts, kMaxParts,
                                               OptionsOf(form), &boundary);
    if (count < 0 || count > kMaxParts) {
      characters.push_back(static_cast<utf8proc_int32_t>(step.code_point));
    } else {
      characters.insert(characters.end(), parts, parts + count);
    }
  }
  SortMarks(characters);
  if (form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc) {
    const auto count =
        utf8proc_normalize_utf32(characters.data(), static_cast<utf8proc_ssize_t>(characters.size()),
                                 static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (count >= 0) characters.resize(static_cast<size_t>(count));
  }
  std::string out;
  for (const utf8proc_int32_t c : characters) AppendUtf8(static_cast<char32_t>(c), out);
  return out;
}

std::string Lowercased(std::string_view text) {
  constexpr char32_t kCapitalDottedI = 0x130;  // the only character whose lower case is two: i and a dot above
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    text.remove_prefix(step.size_bytes);
    if (step.code_point == kCapitalDottedI) {
      out += "i\u0307";
    } else {
      AppendUtf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(step.code_point))), out);
    }
  }
  return out;
}

}  // namespace frugal
