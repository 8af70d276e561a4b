#include "src/train/row_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "src/base/bytes.h"
#include "src/io/nameless_file.h"

namespace frugal {
namespace {

Error SystemError(const std::string& name, const char* what) {
  return MakeError(ErrorCode::kIo, "{}: {}: {}", name, what, std::strerror(errno));
}

}  // namespace

Result<RowStore> RowStore::Create(uint64_t num_rows, uint64_t row_bytes, Placement placement,
                                  const std::string& near_path) {
  RowStore store;
  store.num_rows_ = num_rows;
  store.row_bytes_ = row_bytes;
  const auto size_bytes = CheckedMultiply(num_rows, row_bytes);
  CHECK(size_bytes.has_value() && *size_bytes > 0);
  if (placement == Placement::kMemory) {
    FRUGAL_ASSIGN(store.memory_, AlignedBuffer::Allocate(*size_bytes));
    return store;
  }
  const std::string folder = std::filesystem::path(near_path).parent_path().string();
  store.name_ = near_path;
  Result<UniqueFd> fd = OpenNamelessFile(folder.empty() ? "." : folder);
  if (!fd) return WithContext(std::move(fd).error(), near_path);
  store.fd_ = std::move(fd).value();
  const int failure = posix_fallocate(store.fd_.get(), 0, static_cast<off_t>(*size_bytes));
  if (failure != 0) {
    return MakeError(ErrorCode::kIo, "{}: {} of temporary space cannot be reserved: {}", store.name_,
                     FormatSize(*size_bytes), std::strerror(failure));
  }
  return store;
}

Status RowStore::Write(uint64_t first_row, std::span<const std::byte> rows) {
  CHECK(rows.size() % row_bytes_ == 0 && first_row + rows.size() / row_bytes_ <= num_rows_);
  uint64_t offset = first_row * row_bytes_;
  if (!fd_.valid()) {
    std::memcpy(memory_.data() + offset, rows.data(), rows.size());
    return {};
  }
  while (!rows.empty()) {
    const ssize_t written = pwrite(fd_.get(), rows.data(), rows.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return SystemError(name_, "write of the temporary file");
    rows = rows.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
  return {};
}

Status RowStore::Read(uint64_t first_row, std::span<std::byte> rows) const {
  CHECK(rows.size() % row_bytes_ == 0 && first_row + rows.size() / row_bytes_ <= num_rows_);
  uint64_t offset = first_row * row_bytes_;
  if (!fd_.valid()) {
    std::memcpy(rows.data(), memory_.data() + offset, rows.size());
    return {};
  }
  while (!rows.empty()) {
    const ssize_t got = pread(fd_.get(), rows.data(), rows.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError(name_, "read of the temporary file");
    if (got == 0) return MakeError(ErrorCode::kIo, "{}: the temporary file ends at offset {}", name_, offset);
    rows = rows.subspan(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
  return {};
}

}  // namespace frugal
