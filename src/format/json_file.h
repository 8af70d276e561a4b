// JSON from untrusted files through nlohmann-json, with limits: size, depth 64, duplicate keys refused, a BOM
// accepted.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "src/base/result.h"

namespace frugal {

constexpr uint64_t kMaxJsonFileBytes = 64 << 20;
constexpr size_t kMaxJsonDepth = 64;
// A value takes some 16 to 100 bytes in memory. The tokenizer of Gemma 3, the largest JSON that models bring,
// has about 2 million.
constexpr uint64_t kMaxJsonValues = 4 << 20;

// kBadModel with file, byte offset and reason. `name` is for messages.
Result<nlohmann::json> ParseJson(std::string_view text, const std::string& name);
// kIo when it cannot be opened or read, kBadModel when it is no regular file, too large or not JSON.
Result<nlohmann::json> ReadJsonFile(const std::string& path);
// The whole (text) file, at most max_bytes.
Result<std::string> ReadTextFile(const std::string& path, uint64_t max_bytes);

}  // namespace frugal
