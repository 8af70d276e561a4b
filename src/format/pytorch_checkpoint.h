// PyTorch checkpoints as torch.save writes them since 1.6: a ZIP archive of stored entries, PREFIX/data.pkl (a pickle
// that names tensors; pickle.h) and a file PREFIX/data/KEY for each storage, little-endian. Several tensors may share a
// storage. https://github.com/pytorch/pytorch/blob/main/torch/serialization.py
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/format/byte_source.h"
#include "src/format/shard_set.h"

namespace frugal {

constexpr const char* kPytorchFileName = "pytorch_model.bin";

// Tensor infos of one file in the order of the state dict, file_index 0; extents of tensors that share a storage may be
// the same or overlap. kBadModel names file, tensor or entry, and offset: what pickle.h and zip_directory.h refuse,
// storages that are missing or of another size than the pickle says, tensors that reach beyond their storage or are not
// contiguous in it, big-endian files, files of other kinds, the formats before 1.6 (a bare pickle, a tar archive).
Result<std::vector<TensorInfo>> ReadPytorchFile(ByteSource& source);

class PytorchCheckpoint : public StoredTensors {
 public:
  // pytorch_model.bin of the directory, or pytorch_model.bin.index.json and its shards; errors as ReadShards.
  static Result<std::unique_ptr<PytorchCheckpoint>> Open(const std::string& directory);
  static Result<std::unique_ptr<PytorchCheckpoint>> OpenFile(const std::string& path);

 private:
  using StoredTensors::StoredTensors;
};

}  // namespace frugal
