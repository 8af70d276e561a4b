// Writes a GGUF v3 file under a temporary name and moves it to its final name only when it is complete and
// synced: write temp -> fsync(file) -> rename -> fsync(directory). Killed at any moment it leaves no file
// under the final name; destroyed without Finish it removes the temporary one.
//
// Use: Open, Add* for all keys and AddTensor for all tensors, BeginData, then WriteTensor / WriteTensorPart
// in any order, Finish. Hash arrays that are only known at the end are ordinary tensors written last, and
// numbers that are only known at the end replace those that were added.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/format/gguf_reader.h"
#include "src/format/output_file.h"
#include "src/tensor/dtype.h"

namespace frugal {

class GgufWriter {
 public:
  enum class Space { kReserved, kHoles };

  // kUsage when the file exists and overwrite is kNo. kFailed when another process is writing the same output
  // (flock on the temporary file; the message names its pid). The temporary name is PATH.tmp; a stale one
  // that nobody locks is reused.
  static Result<std::unique_ptr<GgufWriter>> Open(const std::string& path, Overwrite overwrite,
                                                  uint32_t alignment_bytes = 4096);
  ~GgufWriter();

  void AddUint32(std::string_view key, uint32_t value);
  void AddUint64(std::string_view key, uint64_t value);
  void AddFloat32(std::string_view key, float value);
  void AddFloat64(std::string_view key, double value);
  void AddBool(std::string_view key, bool value);
  void AddString(std::string_view key, std::string_view value);
  void AddStringArray(std::string_view key, std::span<const std::string> values);
  void AddStringArray(std::string_view key, std::span<const std::string_view> values);
  void AddInt32Array(std::string_view key, std::span<const int32_t> values);
  void AddFloat32Array(std::string_view key, std::span<const float> values);

  // shape outermost first. Returns the tensor's index. Order of adding = order in the file.
  size_t AddTensor(std::string_view name, DType dtype, std::span<const uint64_t> shape);

  // Size the finished file will have (valid after all Add calls).
  uint64_t file_bytes() const;
  // Checks free space (the needed and the free bytes are in the error, kIo), reserves it with fallocate,
  // writes header and infos.
  // kHoles: nothing is reserved; what SkipTensorPart leaves out takes no disk.
  Status BeginData(Space space = Space::kReserved);
  // Writes data at `offset_bytes` inside the tensor. Errors (ENOSPC, EFBIG, EDQUOT, EIO) are kIo and name the
  // file and tensor.
  Status WriteTensorPart(size_t tensor, uint64_t offset_bytes, std::span<const std::byte> data);
  // The next `size_bytes` of the tensor stay zeros.
  void SkipTensorPart(size_t tensor, uint64_t size_bytes);
  uint64_t tensor_bytes(size_t tensor) const;
  // Absolute offset of the tensor in the file; after BeginData.
  uint64_t tensor_offset_bytes(size_t tensor) const;
  // The file as it lies there before Finish.
  const std::string& temporary_path() const { return file_->temporary_path(); }
  // Another value for a key that AddFloat64 or AddUint64 added, after BeginData: what is known only when all else is written.
  Status ReplaceFloat64(std::string_view key, double value);
  Status ReplaceUint64(std::string_view key, uint64_t value);
  // The bytes [0, data offset) of the finished file, padding included, for its hash; valid after all Add
  // calls.
  std::string HeaderBytes() const;
  // Pads, syncs, renames, syncs the directory. Fails rather than pretends when fsync, close or rename fail.
  Status Finish();

  // Test seam: every statvfs, fallocate, write, fsync, close and rename asks this hook first; a non-zero
  // errno is returned as if the call had failed. nullptr is the default.
  void set_fault_hook_for_test(int (*hook)(const char* operation)) { file_->set_fault_hook_for_test(hook); }

 private:
  struct Tensor;
  GgufWriter();
  void BeginKey(std::string_view key, GgufType type);
  void BeginArray(std::string_view key, GgufType element_type, uint64_t count);
  void AppendText(std::string_view key, std::string_view text);
  void NoteReplaceable(std::string_view key) { replaceable_.emplace(key, key_bytes_.size()); }
  Status Replace(std::string_view key, const void* value);
  uint64_t data_offset_bytes() const;
  std::string MakeHeader() const;

  std::unique_ptr<OutputFile> file_;
  uint32_t alignment_bytes_ = 0;
  std::string key_bytes_;  // all keys with their values, as they go into the file
  std::set<std::string, std::less<>> keys_;
  std::map<std::string, size_t, std::less<>> replaceable_;  // where the 8 bytes of their values are in key_bytes_
  std::set<std::string, std::less<>> tensor_names_;
  std::vector<Tensor> tensors_;
  uint64_t info_bytes_ = 0;       // of all tensor infos in the header
  uint64_t data_bytes_ = 0;       // of the data section, padding included
  std::optional<Error> problem_;  // the first key or tensor that no file can hold: BeginData reports it
  bool began_ = false;
};

}  // namespace frugal
