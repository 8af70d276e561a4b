// What the tests of pack share: checkpoints of the test data, copies of them to spoil, and their bytes.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/format/safetensors.h"
#include "src/base/temp_dir_for_test.h"
#include "src/pack/pack.h"

namespace frugal {

inline std::string DataDir() { return std::string(FRUGAL_SOURCE_DIR) + "/tests/data/models/"; }
inline std::string TaleDir() { return std::string(FRUGAL_SOURCE_DIR) + "/models/tale"; }

inline PackOptions MakePackOptions(const std::string& source_dir, const std::string& output_path) {
  PackOptions options;
  options.source_path = source_dir;
  options.output_path = output_path;
  return options;
}

inline Result<PackReport> PackQuietly(const PackOptions& options) {
  return Pack(options, [](double, std::string_view) {});
}

inline void ExpectError(const Status& status, ErrorCode code, std::string_view part) {
  ASSERT_FALSE(status.has_value()) << "expected an error with: " << part;
  EXPECT_EQ(status.error().code, code) << status.error().message;
  EXPECT_NE(status.error().message.find(part), std::string::npos) << status.error().message;
}
template <typename T>
void ExpectError(const Result<T>& result, ErrorCode code, std::string_view part) {
  ExpectError(result.has_value() ? Status() : Status(result.error()), code, part);
}

inline std::string CopyOf(const std::string& source_dir, const TempDir& directory) {
  const std::string copy = directory.File("checkpoint");
  std::filesystem::remove_all(copy);
  std::filesystem::copy(source_dir, copy);
  return copy;
}

inline void OverwriteBytes(const std::string& path, uint64_t offset_bytes, std::span<const std::byte> bytes) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(offset_bytes));
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.good()) << path;
}

inline void FlipByte(const std::string& path, uint64_t offset_bytes) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset_bytes));
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(static_cast<std::streamoff>(offset_bytes));
  file.put(byte);
  ASSERT_TRUE(file.good()) << path;
}

// The safetensors of a directory, and the bytes of their tensors.
class SourceForTest {
 public:
  explicit SourceForTest(const std::string& directory) {
    auto opened = SafetensorsDirectory::Open(directory);
    EXPECT_TRUE(opened.has_value()) << opened.error().message;
    tensors_ = *std::move(opened);
  }
  const TensorInfo& Find(std::string_view name) const {
    const TensorInfo* tensor = tensors_->Find(name);
    EXPECT_NE(tensor, nullptr) << name;
    return *tensor;
  }
  const std::string& PathOf(const TensorInfo& tensor) const {
    return tensors_->file_paths()[tensor.file_index];
  }
  std::string Bytes(const TensorInfo& tensor) const {
    std::ifstream file(PathOf(tensor), std::ios::binary);
    file.seekg(static_cast<std::streamoff>(tensor.extent.offset_bytes));
    std::string bytes(tensor.extent.size_bytes, '\0');
    file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    EXPECT_TRUE(file.good()) << PathOf(tensor);
    return bytes;
  }
  std::string Bytes(std::string_view name) const { return Bytes(Find(name)); }
  const std::vector<TensorInfo>& tensors() const { return tensors_->tensors(); }

 private:
  std::unique_ptr<SafetensorsDirectory> tensors_;
};

}  // namespace frugal
