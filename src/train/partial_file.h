// What a training run has finished: a log beside the output, OUTPUT.partial. Each record is appended and
// synced; one that was cut off by a kill does not match its hash and is dropped at the next start. Its lock
// keeps a second run away from the same output.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace frugal {

class PartialFile {
 public:
  // `fingerprint` of model and options: the records of another are dropped. kFailed when another run holds
  // the file.
  static Result<PartialFile> Open(const std::string& path, uint64_t fingerprint);

  size_t num_records() const { return records_.size(); }
  Status Append(std::span<const std::byte> payload);
  Result<std::vector<std::byte>> Read(size_t record) const;
  // After the output is complete.
  Status Remove();

 private:
  struct Record {
    uint64_t offset_bytes = 0;  // of the payload
    uint64_t size_bytes = 0;
    uint64_t hash = 0;
  };
  PartialFile() = default;
  Status Load(uint64_t fingerprint);
  Error SystemError(const char* what) const;
  Status WriteAll(uint64_t offset_bytes, std::span<const std::byte> bytes);
  // False when the file ends before.
  Result<bool> ReadAll(uint64_t offset_bytes, std::span<std::byte> bytes) const;

  std::string path_;
  UniqueFd fd_;
  std::vector<Record> records_;
  uint64_t end_bytes_ = 0;
};

}  // namespace frugal
