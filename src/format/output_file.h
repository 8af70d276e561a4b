// A file that appears under its final name only when it is complete and synced: written as PATH.tmp, then
// fsync(file) -> rename -> fsync(directory). Whoever is killed leaves at most the temporary file; destroyed
// without Commit it goes too. One thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace frugal {

enum class Overwrite { kNo, kYes };

class OutputFile {
 public:
  // A non-zero errno makes the operation fail as if the kernel had said so; nullptr asks nobody.
  using FaultHook = int (*)(const char* operation);

  // kUsage when the final name exists and overwrite is kNo, or when it is no regular file. kFailed when
  // somebody else is writing the same output (the message names the pid where the system tells it). A stale
  // temporary file that nobody has locked is emptied and reused.
  static Result<std::unique_ptr<OutputFile>> Open(const std::string& path, Overwrite overwrite);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Makes the file size_bytes long, zeroed, with its space reserved where the file system can do that, so
  // that a full disk is found now. kIo names the needed and the free bytes. At most once, before the first
  // write.
  Status Reserve(uint64_t size_bytes);
  // The same length, of holes: what is not written takes no disk and reads as zeros.
  Status SetLength(uint64_t size_bytes);
  // `what` is for messages. kIo on every failure; after one, everything else fails too.
  Status Write(uint64_t offset_bytes, std::span<const std::byte> data, std::string_view what);
  // Fails rather than pretends when fsync, close or rename fail; then nothing has changed under the final
  // name. Only when the sync of the directory fails after a file was replaced, the new one stays: the old one
  // is gone by then.
  Status Commit();

  const std::string& path() const { return path_; }
  const std::string& temporary_path() const { return temporary_path_; }
  void set_fault_hook_for_test(FaultHook hook) { fault_hook_ = hook; }

 private:
  OutputFile() = default;
  Status CheckTarget() const;
  Status LockTemporary();
  void StartWriteback(uint64_t written_bytes);
  Status CheckFreeSpace(uint64_t size_bytes);
  Status Sync();
  Status Rename();
  Status SyncDirectory();
  Error Fail(int error_number, std::string_view what);
  Status CheckUsable() const;
  int Fault(const char* operation) const { return fault_hook_ == nullptr ? 0 : fault_hook_(operation); }

  std::string path_;
  std::string temporary_path_;
  Overwrite overwrite_ = Overwrite::kNo;
  UniqueFd fd_;
  uint64_t unsynced_bytes_ = 0;  // written since writeback was started last
  bool owns_temporary_ = false;
  bool failed_ = false;
  FaultHook fault_hook_ = nullptr;
};

}  // namespace frugal
