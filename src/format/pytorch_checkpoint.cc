#include "src/format/pytorch_checkpoint.h"

#include <algorithm>
#include <array>
#include <span>
#include <string_view>
#include <utility>

#include "src/base/bytes.h"
#include "src/format/pickle.h"
#include "src/format/untrusted_text.h"
#include "src/format/zip_directory.h"

namespace frugal {
namespace {

constexpr std::string_view kPickleName = "/data.pkl";
constexpr uint64_t kTarMagicOffsetBytes = 257;

const std::string& NameOf(const ZipEntry& entry) { return entry.name; }

// Anything but a ZIP archive, by its name.
Status CheckKind(ByteSource& source) {
  std::array<std::byte, kTarMagicOffsetBytes + 5> first = {};
  const uint64_t first_bytes = std::min<uint64_t>(first.size(), source.size_bytes());
  FRUGAL_TRY(source.Read(0, std::span(first).first(first_bytes)));
  const std::string_view text(reinterpret_cast<const char*>(first.data()), first_bytes);
  if (text.empty()) return BadModel("{}: is empty, expected a PyTorch checkpoint", source.name());
  if (text.starts_with("PK\x03\x04")) return {};
  if (text.starts_with("GGUF")) return BadModel("{}: is a GGUF file, expected a PyTorch checkpoint", source.name());
  constexpr std::string_view kConvert = "; load and save it with PyTorch 1.6 or later";
  if (text.size() == first.size() && text.substr(kTarMagicOffsetBytes) == "ustar") {
    return BadModel("{}: is a tar archive, as PyTorch before 0.1.10 wrote checkpoints{}", source.name(), kConvert);
  }
  if (text[0] == '\x80') {
    return BadModel("{}: is a bare Python pickle, as PyTorch before 1.6 wrote checkpoints{}", source.name(), kConvert);
  }
  const auto kind = FindForeignKind(std::span(first).first(std::min<uint64_t>(first_bytes, kForeignPrefixBytes)));
  if (kind) return BadModel("{}: is {}, expected a PyTorch checkpoint", source.name(), *kind);
  return BadModel("{}: offset 0: expected a PyTorch checkpoint, a ZIP archive", source.name());
}

class PytorchReader {
 public:
  explicit PytorchReader(ByteSource& source) : source_(source) {}

  Result<std::vector<TensorInfo>> Run() {
    FRUGAL_TRY(CheckKind(source_));
    FRUGAL_ASSIGN(entries_, ReadZipDirectory(source_));
    order_ = OrderByName(entries_, NameOf);
    FRUGAL_ASSIGN(const ZipEntry* pickle, FindPickle());
    FRUGAL_TRY(CheckByteOrder());
    if (pickle->extent.size_bytes > kMaxPickleBytes) {
      return BadModel("{}: ZIP entry '{}': offset {}: {} bytes, expected at most {}", source_.name(), pickle->name,
                      pickle->extent.offset_bytes, pickle->extent.size_bytes, kMaxPickleBytes);
    }
    std::vector<std::byte> bytes(pickle->extent.size_bytes);
    FRUGAL_TRY(source_.Read(pickle->extent.offset_bytes, bytes));
    FRUGAL_ASSIGN(const std::vector<PickledTensor> pickled,
                  ReadTensorPickle(bytes, source_.name(), pickle->extent.offset_bytes));
    std::vector<TensorInfo> tensors;
    tensors.reserve(pickled.size());
    for (const PickledTensor& tensor : pickled) {
      FRUGAL_ASSIGN(TensorInfo info, Locate(tensor));
      tensors.push_back(std::move(info));
    }
    return tensors;
  }

 private:
  Result<const ZipEntry*> FindPickle() {
    const ZipEntry* found = nullptr;
    for (const ZipEntry& entry : entries_) {
      const size_t slash = entry.name.find('/');
      if (slash == std::string::npos || std::string_view(entry.name).substr(slash) != kPickleName) continue;
      if (found != nullptr) {
        return BadModel("{}: ZIP entries '{}' and '{}': expected one data.pkl", source_.name(), Printable(found->name),
                        Printable(entry.name));
      }
      found = &entry;
      prefix_ = entry.name.substr(0, slash + 1);
    }
    if (found == nullptr) {
      return BadModel("{}: a ZIP archive without data.pkl, expected a PyTorch checkpoint", source_.name());
    }
    return found;
  }

  const ZipEntry* FindEntry(std::string_view name) const {
    return FindByName(entries_, order_, prefix_ + std::string(name), NameOf);
  }

  Status CheckByteOrder() {
    const ZipEntry* entry = FindEntry("byteorder");
    if (entry == nullptr) return {};  // PyTorch before 2.1 says nothing
    std::array<char, 6> text = {};
    if (entry->extent.size_bytes == text.size()) {
      FRUGAL_TRY(source_.Read(entry->extent.offset_bytes, std::as_writable_bytes(std::span(text))));
    }
    if (std::string_view(text.data(), text.size()) == "little") return {};
    return BadModel("{}: ZIP entry '{}': offset {}: expected the byte order 'little'", source_.name(), Printable(entry->name),
                    entry->extent.offset_bytes);
  }

  Result<TensorInfo> Locate(const PickledTensor& tensor) const {
    const std::string what =
        fmt::format("{}: tensor '{}': offset {}", source_.name(), Printable(tensor.name), tensor.offset_bytes);
    const std::string storage_name = "data/" + tensor.storage_key;
    const ZipEntry* storage = FindEntry(storage_name);
    if (storage == nullptr) return BadModel("{}: its storage '{}' is missing", what, Printable(prefix_ + storage_name));
    const uint64_t element_bytes = TraitsOf(tensor.dtype).block_bytes;
    const auto storage_bytes = CheckedMultiply(tensor.storage_elements, element_bytes);
    if (storage_bytes != storage->extent.size_bytes) {
      return BadModel("{}: its storage '{}' at offset {} has {} bytes, expected {} elements of {}", what,
                      Printable(storage->name), storage->extent.offset_bytes, storage->extent.size_bytes,
                      tensor.storage_elements, DTypeName(tensor.dtype));
    }
    // ReadTensorPickle has seen that the product fits; a stride of a dimension of one element says nothing.
    uint64_t num_elements = 1;
    for (size_t i = tensor.shape.size(); i-- > 0;) {
      if (tensor.shape[i] > 1 && tensor.strides[i] != num_elements) {
        return BadModel("{}: is not contiguous (shape [{}], strides [{}]): call .contiguous() before saving it", what,
                        fmt::join(tensor.shape, ", "), fmt::join(tensor.strides, ", "));
      }
      num_elements *= tensor.shape[i];
    }
    if (tensor.storage_offset > tensor.storage_elements ||
        num_elements > tensor.storage_elements - tensor.storage_offset) {
      return BadModel("{}: its {} elements from {} on reach beyond its storage of {}", what, num_elements,
                      tensor.storage_offset, tensor.storage_elements);
    }
    TensorInfo info;
    info.name = tensor.name;
    info.dtype = tensor.dtype;
    info.shape = tensor.shape;
    info.extent = {storage->extent.offset_bytes + tensor.storage_offset * element_bytes, num_elements * element_bytes};
    return info;
  }

  ByteSource& source_;
  std::vector<ZipEntry> entries_;
  std::vector<uint32_t> order_;  // of entries_ by name
  std::string prefix_;           // of the names of all entries, with its '/'
};

Result<std::vector<TensorInfo>> ReadFile(const std::string& path) {
  FRUGAL_ASSIGN(const std::unique_ptr<ByteSource> source, OpenFileSource(path));
  return ReadPytorchFile(*source);
}

}  // namespace

Result<std::vector<TensorInfo>> ReadPytorchFile(ByteSource& source) { return PytorchReader(source).Run(); }

Result<std::unique_ptr<PytorchCheckpoint>> PytorchCheckpoint::OpenFile(const std::string& path) {
  FRUGAL_ASSIGN(ShardSet set, ReadOneFile(path, ReadFile));
  return std::unique_ptr<PytorchCheckpoint>(new PytorchCheckpoint(std::move(set)));
}

Result<std::unique_ptr<PytorchCheckpoint>> PytorchCheckpoint::Open(const std::string& directory) {
  FRUGAL_ASSIGN(ShardSet set, ReadShards(directory, kPytorchFileName, ReadFile));
  return std::unique_ptr<PytorchCheckpoint>(new PytorchCheckpoint(std::move(set)));
}

}  // namespace frugal
