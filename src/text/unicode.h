// Normal forms and letter case. unicode.cc is the only place that knows utf8proc. Any thread may call. Where
// memory is refused std::string says so, and Tokenizer::Encode turns that into kOutOfMemory.
#pragma once

#include <string>
#include <string_view>

#include "src/text/pipeline.h"

namespace frugal {

// UAX 15. `text` is valid UTF-8. Time is linear but for a sort of the marks on one character; takes 4 bytes for each character.
std::string Normalized(std::string_view text, UnicodeForm form);

// Each character alone, as Rust's char::to_lowercase: no final sigma.
std::string Lowercased(std::string_view text);

}  // namespace frugal
