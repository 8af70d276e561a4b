// Writes a GGUF v3 file under a temporary name and moves it to its final name only when it is complete and synced: write temp ->
// fsync(file) -> rename -> fsync(directory). Killed at any moment it leaves no file under the final name; destroyed without
// Finish it removes the temporary one.
//
// Use: Open, Add* for all keys and AddTensor for all tensors, BeginData, then WriteTensor / WriteTensorPart in any order,
// Finish. Hash arrays that are only known at the end are ordinary tensors written last.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/base/unique_fd.h"
#include "src/tensor/dtype.h"

namespace frugal {

enum class Overwrite { kNo, kYes };

class GgufWriter {
 public:
  // kUsage when the file exists and overwrite is kNo. kFailed when another process is writing the same output (flock on
  // the temporary file; the message names its pid). The temporary name is PATH.tmp; a stale one that nobody locks is reused.
  static Result<std::unique_ptr<GgufWriter>> Open(const std::string& path, Overwrite overwrite, uint32_t alignment_bytes = 4096);
  ~GgufWriter();

  void AddUint32(std::string_view key, uint32_t value);
  void AddUint64(std::string_view key, uint64_t value);
  void AddFloat32(std::string_view key, float value);
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
  // Checks free space (the needed and the free bytes are in the error, kIo), reserves it with fallocate, writes header and infos.
  Status BeginData();
  // Writes data at `offset_bytes` inside the tensor. Errors (ENOSPC, EFBIG, EDQUOT, EIO) are kIo and name the file and tensor.
  Status WriteTensorPart(size_t tensor, uint64_t offset_bytes, std::span<const std::byte> data);
  uint64_t tensor_bytes(size_t tensor) const;
  // Absolute offset of the tensor in the file; after BeginData.
  uint64_t tensor_offset_bytes(size_t tensor) const;
  // Pads, syncs, renames, syncs the directory. Fails rather than pretends when fsync, close or rename fail.
  Status Finish();

  // Test seam: every write, fallocate, fsync and rename asks this hook first; a non-zero errno is returned as if the call
  // had failed. nullptr is the default.
  void set_fault_hook_for_test(int (*hook)(const char* operation)) { fault_hook_ = hook; }

 private:
  struct Tensor;
  GgufWriter() = default;
  std::string path_;
  std::string temporary_path_;
  UniqueFd fd_;
  int (*fault_hook_)(const char*) = nullptr;
};

}  // namespace frugal
