// A Hugging Face checkpoint as people have it on disk: a directory with config.json and weights, or an entry of the
// download cache (models--ORG--NAME), which is read in place.
// https://huggingface.co/docs/huggingface_hub/guides/manage-cache
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/format/tensor_source.h"

namespace frugal {

struct CheckpointDirectory {
  std::string path;  // where config.json is
  std::string name;  // what people call the model: of models--ORG--NAME it is NAME; not empty
  std::string file;  // of weights, where the user named one; else empty
};

constexpr std::string_view kSafetensorsExtension = ".safetensors";
constexpr std::string_view kPytorchExtension = ".bin";

// A directory, or a file whose name says that it holds weights of a checkpoint, unless it begins as a GGUF.
bool IsCheckpointPath(const std::string& path);

// The directory itself; of a cache entry the snapshot that refs/main names, or the only one; of a file that IsCheckpointPath takes the
// directory that it is in. kIo when it is absent, kBadModel when a cache entry names no snapshot, several or one that leaves the cache.
Result<CheckpointDirectory> ResolveCheckpointDirectory(const std::string& path);

// model.safetensors or pytorch_model.bin, one file or shards with an index; safetensors first, as transformers does.
// Errors as SafetensorsDirectory::Open and PytorchCheckpoint::Open; kBadModel when it holds neither.
Result<std::unique_ptr<TensorSource>> OpenCheckpointTensors(const std::string& directory);
// Of the file alone where one was named; kBadModel too for one of several shards: the model is their directory.
Result<std::unique_ptr<TensorSource>> OpenCheckpointTensors(const CheckpointDirectory& directory);

}  // namespace frugal
