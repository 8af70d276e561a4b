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
};

// The directory itself; of a cache entry the snapshot that refs/main names, or the only one. kIo when it is absent,
// kBadModel when a cache entry names no snapshot, several or one that leaves the cache.
Result<CheckpointDirectory> ResolveCheckpointDirectory(const std::string& path);

// model.safetensors or pytorch_model.bin, one file or shards with an index; safetensors first, as transformers does.
// Errors as SafetensorsDirectory::Open and PytorchCheckpoint::Open; kBadModel when it holds neither.
Result<std::unique_ptr<TensorSource>> OpenCheckpointTensors(const std::string& directory);

constexpr std::string_view kSafetensorsExtension = ".safetensors";
constexpr std::string_view kPytorchExtension = ".bin";
// One file of weights, which its name says the format of. kBadModel too for one of several shards: the model is their directory.
Result<std::unique_ptr<TensorSource>> OpenCheckpointFile(const std::string& path);

}  // namespace frugal
