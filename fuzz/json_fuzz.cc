// Any bytes as JSON: what ParseJson takes, the library takes too, and both build the same tree.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "src/base/check.h"
#include "src/format/json_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto parsed = frugal::ParseJson(text, "fuzz.json");
  if (!parsed) {
    CHECK(parsed.error().code == frugal::ErrorCode::kBadModel);
    CHECK(parsed.error().message.size() < 2000);
    return 0;
  }
  CHECK(*parsed == nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false));
  return 0;
}
