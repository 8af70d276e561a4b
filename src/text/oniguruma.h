// Expressions of tokenizers are written for Oniguruma with Ruby's syntax and Unicode; PCRE2 means other things by some of the same
// letters. The translation says for PCRE2 what Oniguruma means, or refuses.
#pragma once

#include <string>
#include <string_view>

#include "src/base/function_ref.h"
#include "src/base/result.h"

namespace frugal {

// \w of Rust's and Oniguruma's expressions (Unicode TR 18, annex C), as the inside of a class of PCRE2. Rust's has \p{Join_Control} too.
constexpr char kWordClass[] = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";

// kBadModel with the place for what PCRE2 cannot say so. `is_script` tells whether PCRE2 knows a name as one of a script.
Result<std::string> TranslateOniguruma(std::string_view pattern, FunctionRef<bool(std::string_view)> is_script);

}  // namespace frugal
