#include "src/train/partial_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "src/base/bytes.h"
#include "src/format/packed_format.h"

namespace frugal {
namespace {

// Head of the file: magic, fingerprint. Head of a record: payload size, XXH3 of the payload, XXH3 of these
// two.
constexpr uint64_t kMagic = 0x3130'5452'4150'5246;  // "FRPART01"
constexpr uint64_t kHeadBytes = 2 * sizeof(uint64_t);
constexpr uint64_t kRecordHeadBytes = 3 * sizeof(uint64_t);

}  // namespace

Error PartialFile::SystemError(const char* what) const {
  return MakeError(ErrorCode::kIo, "{}: {}: {}", path_, what, std::strerror(errno));
}

Result<PartialFile> PartialFile::Open(const std::string& path, uint64_t fingerprint) {
  PartialFile file;
  file.path_ = path;
  file.fd_ = UniqueFd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666));
  if (!file.fd_.valid()) return file.SystemError("cannot be opened");
  struct stat status = {};
  if (fstat(file.fd_.get(), &status) != 0) return file.SystemError("fstat");
  if (!S_ISREG(status.st_mode)) return MakeError(ErrorCode::kUsage, "{}: is no regular file", path);
  if (flock(file.fd_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      return MakeError(ErrorCode::kFailed, "{}: another run is training the same output", path);
    return file.SystemError("flock");
  }
  FRUGAL_TRY(file.Load(fingerprint));
  return file;
}

Status PartialFile::Load(uint64_t fingerprint) {
  const std::array<uint64_t, 2> wanted = {kMagic, fingerprint};
  std::array<uint64_t, 2> head = {};
  FRUGAL_ASSIGN(const bool has_head, ReadAll(0, std::as_writable_bytes(std::span(head))));
  if (!has_head || head != wanted) {
    if (ftruncate(fd_.get(), 0) != 0) return SystemError("ftruncate");
    FRUGAL_TRY(WriteAll(0, std::as_bytes(std::span(wanted))));
    end_bytes_ = kHeadBytes;
    return {};
  }
  end_bytes_ = kHeadBytes;
  struct stat status = {};
  if (fstat(fd_.get(), &status) != 0) return SystemError("fstat");
  const uint64_t file_bytes = static_cast<uint64_t>(status.st_size);
  while (true) {
    std::array<uint64_t, 3> record = {};
    FRUGAL_ASSIGN(const bool has_record, ReadAll(end_bytes_, std::as_writable_bytes(std::span(record))));
    if (!has_record || record[2] != HashBytes(std::as_bytes(std::span(record).first(2)))) break;
    const uint64_t payload = end_bytes_ + kRecordHeadBytes;
    if (record[0] > file_bytes - payload) break;
    records_.push_back({payload, record[0], record[1]});
    if (!Read(records_.size() - 1)) {
      records_.pop_back();
      break;
    }
    end_bytes_ = payload + record[0];
  }
  // What a kill cut off goes.
  if (ftruncate(fd_.get(), static_cast<off_t>(end_bytes_)) != 0) return SystemError("ftruncate");
  return {};
}

Status PartialFile::WriteAll(uint64_t offset_bytes, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset_bytes));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return SystemError("write");
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset_bytes += static_cast<uint64_t>(written);
  }
  return {};
}

Result<bool> PartialFile::ReadAll(uint64_t offset_bytes, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t got = pread(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset_bytes));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError("read");
    if (got == 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(got));
    offset_bytes += static_cast<uint64_t>(got);
  }
  return true;
}

Status PartialFile::Append(std::span<const std::byte> payload) {
  std::array<uint64_t, 3> head = {payload.size(), HashBytes(payload), 0};
  head[2] = HashBytes(std::as_bytes(std::span(head).first(2)));
  FRUGAL_TRY(WriteAll(end_bytes_, std::as_bytes(std::span(head))));
  FRUGAL_TRY(WriteAll(end_bytes_ + kRecordHeadBytes, payload));
  if (fsync(fd_.get()) != 0) return SystemError("fsync");
  records_.push_back({end_bytes_ + kRecordHeadBytes, head[0], head[1]});
  end_bytes_ += kRecordHeadBytes + payload.size();
  return {};
}

Result<std::vector<std::byte>> PartialFile::Read(size_t record) const {
  const Record& wanted = records_[record];
  std::vector<std::byte> payload(wanted.size_bytes);
  FRUGAL_ASSIGN(const bool whole, ReadAll(wanted.offset_bytes, payload));
  if (!whole || HashBytes(payload) != wanted.hash) {
    return MakeError(ErrorCode::kIo, "{}: the record at offset {} does not match its hash", path_,
                     wanted.offset_bytes);
  }
  return payload;
}

Status PartialFile::Remove() {
  if (unlink(path_.c_str()) != 0) return SystemError("unlink");
  return {};
}

}  // namespace frugal
