// GGUF files as bytes, right or wrong in any place: GgufWriter refuses to write most of what these tests
// need.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/bytes.h"

namespace frugal {

template <typename T>
std::string BytesOf(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}
inline std::string GgufText(std::string_view text) {
  return BytesOf<uint64_t>(text.size()) + std::string(text);
}

struct RawKey {
  std::string key;
  uint32_t type = 4;
  std::string value = BytesOf<uint32_t>(7);
};

struct RawTensor {
  std::string name;
  std::vector<uint64_t> dims = {8};  // innermost first, as in the file
  uint32_t type = 0;
  uint64_t offset_bytes = 0;
  uint32_t num_dims = UINT32_MAX;  // UINT32_MAX: as many as dims has
};

struct RawGguf {
  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t num_tensors = UINT64_MAX - 7;  // UINT64_MAX - 7: as many as there are
  uint64_t num_keys = UINT64_MAX - 7;
  std::vector<RawKey> keys;
  std::vector<RawTensor> tensors;
  uint64_t alignment_bytes = 32;
  uint64_t data_bytes = 0;

  std::string Header() const {
    std::string out = magic + BytesOf(version);
    out += BytesOf<uint64_t>(num_tensors == UINT64_MAX - 7 ? tensors.size() : num_tensors);
    out += BytesOf<uint64_t>(num_keys == UINT64_MAX - 7 ? keys.size() : num_keys);
    for (const RawKey& each : keys) out += GgufText(each.key) + BytesOf(each.type) + each.value;
    for (const RawTensor& each : tensors) {
      out += GgufText(each.name);
      out += BytesOf(each.num_dims == UINT32_MAX ? static_cast<uint32_t>(each.dims.size()) : each.num_dims);
      for (const uint64_t dim : each.dims) out += BytesOf(dim);
      out += BytesOf(each.type) + BytesOf(each.offset_bytes);
    }
    return out;
  }

  std::string Bytes() const {
    std::string out = Header();
    out.resize(RoundUp(out.size(), alignment_bytes), '\0');
    out.resize(out.size() + data_bytes, 'w');
    return out;
  }
};

// Two tensors, [2, 8] of F32 (64 bytes) and [32] of Q8_0 (34 bytes), and keys of many types.
inline RawGguf TinyGguf() {
  RawGguf raw;
  raw.keys = {
      {"general.architecture", 8, GgufText("opt")},
      {"opt.block_count", 4, BytesOf<uint32_t>(2)},
      {"opt.negative", 5, BytesOf<int32_t>(-5)},
      {"opt.scale", 6, BytesOf<float>(0.5f)},
      {"opt.flag", 7, BytesOf<uint8_t>(1)},
      {"opt.wide", 10, BytesOf<uint64_t>(uint64_t{1} << 40)},
      {"tokens", 9,
       BytesOf<uint32_t>(8) + BytesOf<uint64_t>(3) + GgufText("a") + GgufText("") + GgufText("\xff")},
      {"types", 9, BytesOf<uint32_t>(5) + BytesOf<uint64_t>(2) + BytesOf<int32_t>(-1) + BytesOf<int32_t>(6)},
      {"scores", 9,
       BytesOf<uint32_t>(6) + BytesOf<uint64_t>(2) + BytesOf<float>(1.5f) + BytesOf<float>(-2.0f)}};
  raw.tensors = {{"blk.0.weight", {8, 2}, 0, 0}, {"blk.1.weight", {32}, 8, 64}};
  raw.data_bytes = 64 + 34;
  return raw;
}

}  // namespace frugal
