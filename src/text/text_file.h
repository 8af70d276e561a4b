// Reads the small files of a Hugging Face directory.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "src/base/result.h"

namespace frugal {

// The largest published tokenizer.json (Gemma 3) has 33 MB.
constexpr uint64_t kMaxTokenizerFileBytes = uint64_t{64} << 20;

// The whole file; nothing when there is none. kIo when it cannot be opened or read, or ends before its size;
// kBadModel when it is no regular file or larger than kMaxTokenizerFileBytes.
Result<std::optional<std::string>> ReadTokenizerFile(const std::string& path);

}  // namespace frugal
