// ZIP archives and pickles, byte by byte, for the tests of their readers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace frugal {

template <typename T>
std::string BytesForTest(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

struct ZipEntryForTest {
  std::string name, data;
  uint16_t method = 0, flags = 0;
  bool is_wide = false;  // sizes in ZIP64 fields
};

// What a reader must refuse is made by changing bytes of what this makes.
class ZipForTest {
 public:
  void Add(const ZipEntryForTest& entry) {
    const auto size = static_cast<uint32_t>(entry.data.size());
    const uint32_t narrow = entry.is_wide ? UINT32_MAX : size;
    const bool is_later = (entry.flags & 8) != 0;
    const std::string local_extra = entry.is_wide ? Wide(is_later ? 0 : size, is_later ? 0 : size) : "";
    const uint32_t local_size = is_later && !entry.is_wide ? 0 : narrow;
    offsets.push_back(bytes.size());
    const std::string common = BytesForTest<uint16_t>(0) + BytesForTest(entry.flags) + BytesForTest(entry.method) +
                               std::string(8, '\0');  // version, flags, method, time, date, CRC
    const auto name_bytes = static_cast<uint16_t>(entry.name.size());
    directory += "PK\x01\x02" + BytesForTest<uint16_t>(0) + common + BytesForTest(narrow) + BytesForTest(narrow) +
                 BytesForTest(name_bytes) + BytesForTest<uint16_t>(entry.is_wide ? 20 : 0) + std::string(10, '\0') +
                 BytesForTest(static_cast<uint32_t>(bytes.size())) + entry.name + (entry.is_wide ? Wide(size, size) : "");
    bytes += "PK\x03\x04" + common + BytesForTest(local_size) + BytesForTest(local_size) + BytesForTest(name_bytes) +
             BytesForTest(static_cast<uint16_t>(local_extra.size())) + entry.name + local_extra + entry.data;
    if (is_later) bytes += "PK\x07\x08" + BytesForTest<uint32_t>(0) + BytesForTest(size) + BytesForTest(size);
  }

  std::string Finish() const {
    const auto count = static_cast<uint16_t>(offsets.size());
    return bytes + directory + "PK\x05\x06" + BytesForTest<uint32_t>(0) + BytesForTest(count) + BytesForTest(count) +
           BytesForTest(static_cast<uint32_t>(directory.size())) + BytesForTest(static_cast<uint32_t>(bytes.size())) +
           BytesForTest<uint16_t>(0);
  }

  // With the ZIP64 end record, all numbers there.
  std::string FinishWide() const {
    const uint64_t count = offsets.size();
    return bytes + directory + "PK\x06\x06" + BytesForTest<uint64_t>(44) + std::string(12, '\0') + BytesForTest(count) +
           BytesForTest(count) + BytesForTest<uint64_t>(directory.size()) + BytesForTest<uint64_t>(bytes.size()) +
           "PK\x06\x07" + BytesForTest<uint32_t>(0) + BytesForTest<uint64_t>(bytes.size() + directory.size()) +
           BytesForTest<uint32_t>(1) + "PK\x05\x06" + BytesForTest<uint32_t>(0) + std::string(12, '\xff') +
           BytesForTest<uint16_t>(0);
  }

  std::string bytes, directory;
  std::vector<uint64_t> offsets;  // of the local headers

 private:
  static std::string Wide(uint64_t size, uint64_t stored) {
    return BytesForTest<uint16_t>(1) + BytesForTest<uint16_t>(16) + BytesForTest(size) + BytesForTest(stored);
  }
};

namespace pickle_for_test {

inline std::string Text(std::string_view text) {
  return "X" + BytesForTest(static_cast<uint32_t>(text.size())) + std::string(text);
}
inline std::string Int(int32_t value) { return "J" + BytesForTest(value); }
inline std::string Global(std::string_view module, std::string_view name) {
  return "c" + std::string(module) + "\n" + std::string(name) + "\n";
}
inline std::string Tuple(std::string_view items) { return "(" + std::string(items) + "t"; }
inline std::string Storage(std::string_view type, std::string_view key, int32_t num_elements) {
  return Tuple(Text("storage") + Global("torch", type) + Text(key) + Text("cpu") + Int(num_elements)) + "Q";
}
// Arguments of _rebuild_tensor_v2.
inline std::string Arguments(const std::string& storage, int32_t offset, const std::vector<int32_t>& shape,
                             const std::vector<int32_t>& strides) {
  std::string sizes, steps;
  for (const int32_t size : shape) sizes += Int(size);
  for (const int32_t stride : strides) steps += Int(stride);
  return Tuple(storage + Int(offset) + Tuple(sizes) + Tuple(steps) + "\x89" + Global("collections", "OrderedDict") + ")R");
}
inline std::string Tensor(const std::string& storage, int32_t offset, const std::vector<int32_t>& shape,
                          const std::vector<int32_t>& strides) {
  return Global("torch._utils", "_rebuild_tensor_v2") + Arguments(storage, offset, shape, strides) + "R";
}
// A whole pickle: `items` are names and values.
inline std::string StateDict(std::string_view items) { return "\x80\x02}(" + std::string(items) + "u."; }

}  // namespace pickle_for_test
}  // namespace frugal
