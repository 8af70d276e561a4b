#include "src/format/zip_directory.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <utility>

#include "src/base/bytes.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

constexpr uint32_t kLocalMagic = 0x04034b50, kCentralMagic = 0x02014b50, kEndMagic = 0x06054b50;
constexpr uint32_t kEnd64Magic = 0x06064b50, kLocator64Magic = 0x07064b50;
constexpr uint64_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22, kEnd64Bytes = 56, kLocator64Bytes = 20;
constexpr uint16_t kZip64Field = 1;
constexpr uint16_t kNarrow16 = UINT16_MAX;
constexpr uint32_t kNarrow32 = UINT32_MAX;  // "the value is in the ZIP64 field"
constexpr uint64_t kMaxDescriptorBytes = 24;
constexpr uint16_t kHasDescriptor = 1 << 3;
constexpr uint16_t kEncrypted = 1 << 0 | 1 << 6 | 1 << 13;

template <typename T>
T At(std::span<const std::byte> bytes, uint64_t offset_bytes) {
  return LoadUnaligned<T>(bytes.data() + offset_bytes);
}

// Sizes and offset as a header has them, with those of its ZIP64 field put in.
struct Places {
  uint64_t size_bytes = 0, stored_bytes = 0;
  uint64_t offset_bytes = 0;
};

class ZipReader {
 public:
  explicit ZipReader(ByteSource& source) : source_(source) {}

  Result<std::vector<ZipEntry>> Run() {
    FRUGAL_TRY(ReadEnd());
    if (num_entries_ > kMaxZipEntries) {
      return Refuse(end_offset_bytes_, fmt::format("{} entries, expected at most {}", num_entries_, kMaxZipEntries));
    }
    uint64_t at = directory_.offset_bytes;
    for (uint64_t i = 0; i < num_entries_; ++i) FRUGAL_TRY(ReadEntry(&at));
    if (at != directory_.end_bytes()) {
      return Refuse(at, fmt::format("the directory of {} entries ends here, expected its end at offset {}", num_entries_,
                                    directory_.end_bytes()));
    }
    FRUGAL_TRY(CheckCoverage());
    FRUGAL_TRY(CheckNames());
    return std::move(entries_);
  }

 private:
  Error Refuse(uint64_t offset_bytes, std::string_view what) const {
    return BadModel("{}: ZIP archive: offset {}: {}", source_.name(), offset_bytes, what);
  }
  Error RefuseEntry(uint64_t offset_bytes, std::string_view name, std::string_view what) const {
    return BadModel("{}: ZIP entry '{}': offset {}: {}", source_.name(), Printable(name), offset_bytes, what);
  }

  Status ReadEnd();
  Status ReadEnd64();
  Status ReadEntry(uint64_t* at);
  Result<Places> WithZip64(std::span<const std::byte> extra, uint64_t offset_bytes, std::string_view name,
                           Places places) const;
  Status ReadLocal(const Places& central, uint16_t flags, ZipEntry* entry);
  Status CheckCoverage();
  Status CheckNames() const;

  ByteSource& source_;
  uint64_t end_offset_bytes_ = 0;  // of the end record
  uint64_t num_entries_ = 0;
  Extent directory_;
  std::vector<ZipEntry> entries_;
};

// The end record is the last thing in the file: a comment behind it could hold another archive.
Status ZipReader::ReadEnd() {
  std::array<std::byte, kEndBytes> end = {};
  if (source_.size_bytes() < kEndBytes) {
    return Refuse(0, fmt::format("the file ends at offset {}, expected an end record", source_.size_bytes()));
  }
  end_offset_bytes_ = source_.size_bytes() - kEndBytes;
  FRUGAL_TRY(source_.Read(end_offset_bytes_, end));
  if (At<uint32_t>(end, 0) != kEndMagic || At<uint16_t>(end, 20) != 0) {
    return Refuse(end_offset_bytes_,
                  "expected the end record of a ZIP archive without comment: the file is truncated or has bytes behind it");
  }
  if (At<uint16_t>(end, 4) != 0 || At<uint16_t>(end, 6) != 0) {
    return Refuse(end_offset_bytes_ + 4, "is one part of several, expected a whole archive");
  }
  if (At<uint16_t>(end, 8) != At<uint16_t>(end, 10)) {
    return Refuse(end_offset_bytes_ + 8, "two different numbers of entries");
  }
  num_entries_ = At<uint16_t>(end, 10);
  directory_ = {At<uint32_t>(end, 16), At<uint32_t>(end, 12)};
  const bool is_narrow =
      num_entries_ == kNarrow16 || directory_.offset_bytes == kNarrow32 || directory_.size_bytes == kNarrow32;
  uint64_t directory_end_bytes = end_offset_bytes_;
  if (end_offset_bytes_ >= kLocator64Bytes) {
    std::array<std::byte, 4> magic = {};
    FRUGAL_TRY(source_.Read(end_offset_bytes_ - kLocator64Bytes, magic));
    if (At<uint32_t>(magic, 0) == kLocator64Magic) {
      FRUGAL_TRY(ReadEnd64());
      directory_end_bytes = end_offset_bytes_;
    } else if (is_narrow) {
      return Refuse(end_offset_bytes_ - kLocator64Bytes, "expected a ZIP64 locator in front of the end record");
    }
  }
  // Not end_bytes(): the sum may overflow.
  if (directory_.offset_bytes > directory_end_bytes ||
      directory_.size_bytes != directory_end_bytes - directory_.offset_bytes) {
    return Refuse(end_offset_bytes_, fmt::format("the directory is said to have {} bytes at offset {}, expected it to end at "
                                                 "offset {}",
                                                 directory_.size_bytes, directory_.offset_bytes, directory_end_bytes));
  }
  return {};
}

// Takes the numbers of the wide end record, which must agree with those of the narrow one that are not "see there".
Status ZipReader::ReadEnd64() {
  const uint64_t locator_offset_bytes = end_offset_bytes_ - kLocator64Bytes;
  std::array<std::byte, kLocator64Bytes> locator = {};
  FRUGAL_TRY(source_.Read(locator_offset_bytes, locator));
  const uint64_t record_offset_bytes = At<uint64_t>(locator, 8);
  if (At<uint32_t>(locator, 4) != 0 || At<uint32_t>(locator, 16) != 1 || locator_offset_bytes < kEnd64Bytes ||
      record_offset_bytes != locator_offset_bytes - kEnd64Bytes) {
    return Refuse(locator_offset_bytes, fmt::format("the ZIP64 locator points to offset {}, expected the {} bytes in front of it",
                                                    record_offset_bytes, kEnd64Bytes));
  }
  std::array<std::byte, kEnd64Bytes> record = {};
  FRUGAL_TRY(source_.Read(record_offset_bytes, record));
  if (At<uint32_t>(record, 0) != kEnd64Magic || At<uint64_t>(record, 4) != kEnd64Bytes - 12 ||
      At<uint32_t>(record, 16) != 0 || At<uint32_t>(record, 20) != 0) {
    return Refuse(record_offset_bytes, "expected a ZIP64 end record of one part");
  }
  const uint64_t num_entries = At<uint64_t>(record, 32);
  const Extent directory = {At<uint64_t>(record, 48), At<uint64_t>(record, 40)};
  const auto agrees = [](uint64_t narrow, uint64_t limit, uint64_t wide) { return narrow == limit || narrow == wide; };
  if (At<uint64_t>(record, 24) != num_entries || !agrees(num_entries_, kNarrow16, num_entries) ||
      !agrees(directory_.offset_bytes, kNarrow32, directory.offset_bytes) ||
      !agrees(directory_.size_bytes, kNarrow32, directory.size_bytes)) {
    return Refuse(record_offset_bytes, "the ZIP64 end record contradicts the end record");
  }
  num_entries_ = num_entries;
  directory_ = directory;
  end_offset_bytes_ = record_offset_bytes;
  return {};
}

Result<Places> ZipReader::WithZip64(std::span<const std::byte> extra, uint64_t offset_bytes, std::string_view name,
                                    Places places) const {
  const uint64_t begin_bytes = offset_bytes;
  bool found = false;
  while (extra.size() >= 4) {
    const uint16_t id = At<uint16_t>(extra, 0);
    const uint16_t size_bytes = At<uint16_t>(extra, 2);
    if (size_bytes > extra.size() - 4) {
      return RefuseEntry(offset_bytes, name, fmt::format("an extra field of {} bytes reaches beyond its header", size_bytes));
    }
    std::span<const std::byte> field = extra.subspan(4, size_bytes);
    if (id == kZip64Field && !found) {
      found = true;
      for (uint64_t* value : {&places.size_bytes, &places.stored_bytes, &places.offset_bytes}) {
        if (*value != kNarrow32) continue;
        if (field.size() < sizeof(uint64_t)) return RefuseEntry(offset_bytes, name, "its ZIP64 field lacks a value");
        *value = At<uint64_t>(field, 0);
        field = field.subspan(sizeof(uint64_t));
      }
    }
    extra = extra.subspan(4 + uint64_t{size_bytes});
    offset_bytes += 4 + uint64_t{size_bytes};
  }
  const bool is_narrow =
      places.size_bytes == kNarrow32 || places.stored_bytes == kNarrow32 || places.offset_bytes == kNarrow32;
  if (is_narrow && !found) return RefuseEntry(begin_bytes, name, "expected a ZIP64 field");
  return places;
}

// The central header at *at, which moves on, and its local header.
Status ZipReader::ReadEntry(uint64_t* at) {
  std::array<std::byte, kCentralBytes> header = {};
  if (directory_.end_bytes() - *at < kCentralBytes) return Refuse(*at, "the directory ends within a header");
  FRUGAL_TRY(source_.Read(*at, header));
  if (At<uint32_t>(header, 0) != kCentralMagic) return Refuse(*at, "expected a header of the directory");
  const uint16_t flags = At<uint16_t>(header, 8);
  const uint16_t name_bytes = At<uint16_t>(header, 28);
  const uint16_t extra_bytes = At<uint16_t>(header, 30);
  const uint16_t comment_bytes = At<uint16_t>(header, 32);
  const uint64_t header_bytes = kCentralBytes + name_bytes + extra_bytes + comment_bytes;
  if (directory_.end_bytes() - *at < header_bytes || name_bytes > kMaxZipNameBytes) {
    return Refuse(*at, fmt::format("a header with a name of {} bytes reaches beyond the directory, or its name beyond {} bytes",
                                   name_bytes, kMaxZipNameBytes));
  }
  std::vector<std::byte> rest(name_bytes + extra_bytes);
  FRUGAL_TRY(source_.Read(*at + kCentralBytes, rest));
  ZipEntry entry;
  entry.name.assign(reinterpret_cast<const char*>(rest.data()), name_bytes);
  if (const char* reason = WhyBadName(entry.name)) {
    return RefuseEntry(*at, entry.name, fmt::format("the name {}", reason));
  }
  if (At<uint16_t>(header, 10) != 0) {
    return RefuseEntry(*at, entry.name, fmt::format("is compressed (method {}), expected stored bytes", At<uint16_t>(header, 10)));
  }
  if ((flags & kEncrypted) != 0) return RefuseEntry(*at, entry.name, "is encrypted");
  if (At<uint16_t>(header, 34) != 0) return RefuseEntry(*at, entry.name, "lies in another part of the archive");
  Places places = {At<uint32_t>(header, 24), At<uint32_t>(header, 20), At<uint32_t>(header, 42)};
  FRUGAL_ASSIGN(places, WithZip64(std::span(rest).subspan(name_bytes), *at + kCentralBytes + name_bytes, entry.name, places));
  if (places.size_bytes != places.stored_bytes) {
    return RefuseEntry(*at, entry.name,
                       fmt::format("has {} bytes, stored as {}: expected the same", places.size_bytes, places.stored_bytes));
  }
  FRUGAL_TRY(ReadLocal(places, flags, &entry));
  entries_.push_back(std::move(entry));
  *at += header_bytes;
  return {};
}

Status ZipReader::ReadLocal(const Places& central, uint16_t flags, ZipEntry* entry) {
  const uint64_t at = central.offset_bytes;
  if (at >= directory_.offset_bytes || directory_.offset_bytes - at < kLocalBytes) {
    return RefuseEntry(at, entry->name, fmt::format("expected a local header in front of offset {}", directory_.offset_bytes));
  }
  std::array<std::byte, kLocalBytes> header = {};
  FRUGAL_TRY(source_.Read(at, header));
  if (At<uint32_t>(header, 0) != kLocalMagic) return RefuseEntry(at, entry->name, "expected its local header");
  const uint16_t name_bytes = At<uint16_t>(header, 26);
  const uint16_t extra_bytes = At<uint16_t>(header, 28);
  entry->header_offset_bytes = at;
  const uint64_t data_offset_bytes = at + kLocalBytes + name_bytes + extra_bytes;
  if (data_offset_bytes > directory_.offset_bytes ||
      central.size_bytes > directory_.offset_bytes - data_offset_bytes) {
    return RefuseEntry(at, entry->name, fmt::format("its {} bytes at offset {} reach into the directory at offset {}",
                                                    central.size_bytes, data_offset_bytes, directory_.offset_bytes));
  }
  entry->extent = {data_offset_bytes, central.size_bytes};
  if (name_bytes != entry->name.size()) return RefuseEntry(at, entry->name, "has another name in its local header");
  std::vector<std::byte> rest(name_bytes + extra_bytes);
  FRUGAL_TRY(source_.Read(at + kLocalBytes, rest));
  if (entry->name != std::string_view(reinterpret_cast<const char*>(rest.data()), name_bytes)) {
    return RefuseEntry(at, entry->name, "has another name in its local header");
  }
  if (At<uint16_t>(header, 6) != flags || At<uint16_t>(header, 8) != 0) {
    return RefuseEntry(at, entry->name, "its local header has other flags or another method than the directory");
  }
  // The offset is no part of a local header.
  Places local = {At<uint32_t>(header, 22), At<uint32_t>(header, 18), 0};
  FRUGAL_ASSIGN(local, WithZip64(std::span(rest).subspan(name_bytes), at + kLocalBytes + name_bytes, entry->name, local));
  // Who writes in one go knows the size only afterwards: it stands in a descriptor behind the bytes.
  const bool is_later = (flags & kHasDescriptor) != 0 && local.size_bytes == 0 && local.stored_bytes == 0;
  if (!is_later && (local.size_bytes != central.size_bytes || local.stored_bytes != central.stored_bytes)) {
    return RefuseEntry(at, entry->name, fmt::format("its local header says {} bytes, the directory {}", local.size_bytes,
                                                    central.size_bytes));
  }
  return {};
}

Status ZipReader::CheckCoverage() {
  std::stable_sort(entries_.begin(), entries_.end(), [](const ZipEntry& a, const ZipEntry& b) {
    return a.header_offset_bytes < b.header_offset_bytes;
  });
  uint64_t end_bytes = 0, most_bytes = 0;  // what may lie in front of the next header: nothing before the first one
  for (const ZipEntry& entry : entries_) {
    if (entry.header_offset_bytes < end_bytes) {
      return RefuseEntry(entry.header_offset_bytes, entry.name,
                         fmt::format("overlaps the entry before it, which ends at offset {}", end_bytes));
    }
    if (entry.header_offset_bytes - end_bytes > most_bytes) {
      return RefuseEntry(entry.header_offset_bytes, entry.name,
                         fmt::format("the {} bytes in front of it belong to no entry", entry.header_offset_bytes - end_bytes));
    }
    end_bytes = entry.extent.end_bytes();
    most_bytes = kMaxDescriptorBytes;
  }
  if (directory_.offset_bytes - end_bytes > most_bytes) {
    return Refuse(end_bytes, fmt::format("{} bytes up to the directory belong to no entry", directory_.offset_bytes - end_bytes));
  }
  return {};
}

Status ZipReader::CheckNames() const {
  const auto name_of = [](const ZipEntry& entry) -> const std::string& { return entry.name; };
  const std::vector<uint32_t> order = OrderByName(entries_, name_of);
  if (const ZipEntry* again = FindDuplicate(entries_, order, name_of)) {
    return RefuseEntry(again->header_offset_bytes, again->name, "is there twice, expected unique names");
  }
  return {};
}

}  // namespace

Result<std::vector<ZipEntry>> ReadZipDirectory(ByteSource& source) { return ZipReader(source).Run(); }

}  // namespace frugal
