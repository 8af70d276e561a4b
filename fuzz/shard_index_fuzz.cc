// Any bytes as model.safetensors.index.json: refused with a message, or an index that names files of one
// directory only.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "src/base/check.h"
#include "src/format/shard_index.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto index = frugal::ParseShardIndex({reinterpret_cast<const char*>(data), size}, "fuzz.json");
  if (!index) {
    CHECK(index.error().code == frugal::ErrorCode::kBadModel);
    CHECK(index.error().message.size() < 2000);
    return 0;
  }
  CHECK(!index->entries.empty() && !index->files.empty());
  for (const std::string& name : index->files)
    CHECK(!name.empty() && name.find('/') == std::string::npos && name != "..");
  for (const auto& entry : index->entries) {
    CHECK(entry.file_index < index->files.size());
    CHECK(index->Find(entry.tensor) == &entry);
  }
  return 0;
}
