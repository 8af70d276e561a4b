// The directory of a ZIP archive whose entries are stored, as torch.save writes them: names and where their bytes
// lie. https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT (4.3, 4.5.3). Nothing is ever unpacked: an entry
// that is compressed is refused, so that a small file cannot become a large one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/format/byte_source.h"
#include "src/tensor/tensor_info.h"

namespace frugal {

constexpr uint64_t kMaxZipEntries = 1 << 20;
constexpr uint64_t kMaxZipNameBytes = 1024;

struct ZipEntry {
  std::string name;
  Extent extent;                   // of its bytes in the file
  uint64_t header_offset_bytes = 0;  // of its local header
};

// All entries in the order of their bytes. The central directory (ZIP64 too) is checked against every local header;
// the file holds nothing else than entries, directory and end record: no overlaps, no holes wider than a data
// descriptor, nothing in front, nothing behind. Names are unique. CRCs are not looked at: weights have hashes once they
// are packed. kBadModel names file, entry, offset and what was expected.
Result<std::vector<ZipEntry>> ReadZipDirectory(ByteSource& source);

}  // namespace frugal
