#include "src/format/byte_source.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "src/base/bytes.h"
#include "src/format/regular_file.h"

namespace frugal {
namespace {

constexpr uint64_t kWindowBytes = 64 * kKiB;

// Kept apart from Read so that both sources refuse the same requests with the same words.
Status CheckInside(const std::string& name, uint64_t source_bytes, uint64_t offset_bytes,
                   uint64_t wanted_bytes) {
  if (offset_bytes <= source_bytes && wanted_bytes <= source_bytes - offset_bytes) return {};
  return BadModel("{}: file ends at offset {}, expected {} bytes at offset {}", name, source_bytes,
                  wanted_bytes, offset_bytes);
}

class MemorySource : public ByteSource {
 public:
  MemorySource(std::string name, std::span<const std::byte> bytes) : name_(std::move(name)), bytes_(bytes) {}

  Status Read(uint64_t offset_bytes, std::span<std::byte> destination) override {
    FRUGAL_TRY(CheckInside(name_, bytes_.size(), offset_bytes, destination.size()));
    if (!destination.empty())
      std::memcpy(destination.data(), bytes_.data() + offset_bytes, destination.size());
    return {};
  }
  uint64_t size_bytes() const override { return bytes_.size(); }
  const std::string& name() const override { return name_; }

 private:
  std::string name_;
  std::span<const std::byte> bytes_;
};

class FileSource : public ByteSource {
 public:
  FileSource(std::string path, RegularFile file)
      : path_(std::move(path)), file_(std::move(file)), window_(kWindowBytes) {}

  Status Read(uint64_t offset_bytes, std::span<std::byte> destination) override {
    FRUGAL_TRY(CheckInside(path_, file_.size_bytes, offset_bytes, destination.size()));
    if (destination.size() >= kWindowBytes)
      return ReadFully(file_.fd.get(), path_, offset_bytes, destination);
    while (!destination.empty()) {
      if (offset_bytes < window_offset_bytes_ || offset_bytes >= window_offset_bytes_ + filled_bytes_) {
        FRUGAL_TRY(FillWindow(offset_bytes));
      }
      const uint64_t skip_bytes = offset_bytes - window_offset_bytes_;
      const uint64_t part_bytes = std::min<uint64_t>(destination.size(), filled_bytes_ - skip_bytes);
      std::memcpy(destination.data(), window_.data() + skip_bytes, part_bytes);
      destination = destination.subspan(part_bytes);
      offset_bytes += part_bytes;
    }
    return {};
  }
  uint64_t size_bytes() const override { return file_.size_bytes; }
  const std::string& name() const override { return path_; }

 private:
  Status FillWindow(uint64_t offset_bytes) {
    const uint64_t wanted_bytes = std::min(kWindowBytes, file_.size_bytes - offset_bytes);
    filled_bytes_ = 0;  // nothing is valid when the read fails
    FRUGAL_TRY(ReadFully(file_.fd.get(), path_, offset_bytes, std::span(window_).first(wanted_bytes)));
    window_offset_bytes_ = offset_bytes;
    filled_bytes_ = wanted_bytes;
    return {};
  }

  std::string path_;
  RegularFile file_;
  std::vector<std::byte> window_;  // [kWindowBytes]
  uint64_t window_offset_bytes_ = 0;
  uint64_t filled_bytes_ = 0;
};

}  // namespace

Result<std::unique_ptr<ByteSource>> OpenFileSource(const std::string& path) {
  FRUGAL_ASSIGN(RegularFile file, OpenRegularFile(path));
  return std::unique_ptr<ByteSource>(std::make_unique<FileSource>(path, std::move(file)));
}

std::unique_ptr<ByteSource> MakeMemorySource(std::string name, std::span<const std::byte> bytes) {
  return std::make_unique<MemorySource>(std::move(name), bytes);
}

}  // namespace frugal
