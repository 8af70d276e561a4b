#include "src/pack/pack.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <numeric>
#include <span>
#include <system_error>
#include <utility>

#include "src/base/clock.h"
#include "src/format/hashed_gguf_writer.h"
#include "src/format/packed_format.h"
#include "src/format/tokenizer_keys.h"
#include "src/format/untrusted_text.h"
#include "src/pack/bundle_panel.h"
#include "src/pack/checkpoint.h"
#include "src/pack/model_keys.h"
#include "src/pack/pack_plan.h"
#include "src/pack/staged_reader.h"
#include "src/pack/vocabulary_gguf.h"
#include "src/text/tokenizer.h"
#include "src/text/vocabulary.h"

namespace frugal {
namespace {

using Kind = PlannedTensor::Kind;
using Progress = FunctionRef<void(double share, std::string_view what)>;

Status CheckOptions(const PackOptions& options) {
  if (options.align_bytes != kSectorBytes && options.align_bytes != kPackedAlignmentBytes) {
    return MakeError(ErrorCode::kUsage, "alignment of bundles: {}, expected {} or {}", options.align_bytes,
                     kSectorBytes, kPackedAlignmentBytes);
  }
  if (options.type && !IsWritableWeightType(*options.type)) {
    return MakeError(ErrorCode::kUsage, "type of the weights: {}, expected F32, F16, BF16, Q8_0 or Q4_0",
                     DTypeName(*options.type));
  }
  return {};
}

// The name of the directory: what people call the model.
std::string ModelName(const std::string& source_dir) {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::weakly_canonical(source_dir, error);
  if (error || path.filename().empty()) return "opt";
  return Printable(path.filename().string());
}

// Text, lists and keys of a vocabulary, for the memory plan: OPT's 50,265 tokens and their merges took 6.3
// times the size of vocab.json and merges.txt; the lists of a tokenizer.json are spelled longer.
uint64_t TokenizerBytes(const std::string& directory) {
  constexpr uint64_t kFactor = 10;
  uint64_t size_bytes = 0;
  for (const char* name : {"tokenizer.json", "vocab.json", "merges.txt", "gpt2-vocab.json", "gpt2-merges.txt",
                           "tokenizer_config.json", "added_tokens.json"}) {
    struct stat status = {};
    if (stat((directory + "/" + name).c_str(), &status) == 0) {
      size_bytes += static_cast<uint64_t>(status.st_size);
    }
  }
  return kFactor * size_bytes;
}

class Packer {
 public:
  Packer(const PackOptions& options, Progress progress) : options_(options), progress_(progress) {}

  Result<PackReport> Run() {
    const uint64_t start_ns = NowNs();
    FRUGAL_TRY(CheckOptions(options_));
    FRUGAL_ASSIGN(checkpoint_, Checkpoint::Open(options_.source_dir));
    FRUGAL_TRY(CheckNeuronOrders(options_.neuron_orders, config().num_layers, config().ffn_size));
    if (checkpoint_->HasFile(options_.output_path)) {
      return MakeError(ErrorCode::kUsage, "{}: is a file of the checkpoint itself", options_.output_path);
    }
    FRUGAL_ASSIGN(plan_, PlanPack(*checkpoint_, options_.type, options_.align_bytes));
    FRUGAL_ASSIGN(memory_,
                  PlanPackMemory(plan_, config(), TokenizerBytes(options_.source_dir),
                                 options_.neuron_orders.size() * config().ffn_size * sizeof(uint32_t),
                                 options_.ram_bytes));
    FRUGAL_ASSIGN(writer_, HashedGgufWriter::Open(options_.output_path, options_.overwrite));
    writer_->keys().set_fault_hook_for_test(options_.fault_hook_for_test);
    AddKeys();
    FRUGAL_TRY(AddTokenizer());
    FRUGAL_TRY(WriteTensors());
    FRUGAL_TRY(checkpoint_->CheckUnchanged());
    progress_(1.0, "syncing");
    FRUGAL_TRY(writer_->Finish());
    FillReport();
    report_.elapsed_ns = NowNs() - start_ns;
    return std::move(report_);
  }

 private:
  const ModelConfig& config() const { return checkpoint_->config(); }

  void AddKeys() {
    AddModelKeys(config(), {ModelName(options_.source_dir), plan_.up_type, plan_.down_type, plan_.stride_bytes},
                 writer_->keys());
  }

  // The vocabulary's memory is free again before any weight is read.
  Status AddTokenizer() {
    Result<Vocabulary> vocabulary = ReadHuggingFaceVocabulary(options_.source_dir);
    if (!vocabulary) {
      // kFailed is "there is none"; a tokenizer that is there and broken has another code.
      if (vocabulary.error().code != ErrorCode::kFailed) return std::move(vocabulary).error();
      report_.warnings.push_back(vocabulary.error().message);
      return AddIdsOfConfig();
    }
    // What the engine would refuse is refused here.
    FRUGAL_ASSIGN(const Tokenizer tokenizer, Tokenizer::Create(*vocabulary, options_.source_dir));
    if (vocabulary->tokens.size() > config().vocab_size) {
      return BadModel("{}: the tokenizer has {} tokens, but vocab_size in config.json is {}",
                      options_.source_dir, vocabulary->tokens.size(), config().vocab_size);
    }
    AddVocabularyKeys(*vocabulary, writer_->keys());
    report_.has_tokenizer = true;
    return {};
  }

  Status AddIdsOfConfig() {
    const std::array<std::pair<const char*, int32_t>, 2> ids = {
        {{tokenizer_keys::kBosId, config().bos_id}, {tokenizer_keys::kEosId, config().eos_id}}};
    for (const auto& [key, id] : ids) {
      if (id < 0) continue;
      if (static_cast<uint32_t>(id) >= config().vocab_size) {
        return BadModel("{}/config.json: {} is {}, but vocab_size is {}", options_.source_dir, key, id,
                        config().vocab_size);
      }
      writer_->keys().AddUint32(key, static_cast<uint32_t>(id));
    }
    return {};
  }

  Status WriteTensors() {
    for (const PlannedTensor& tensor : plan_.tensors) {
      if (tensor.kind == Kind::kBundles) {
        writer_->AddBundles(tensor.layer, config().ffn_size, plan_.stride_bytes);
      } else {
        writer_->AddTensor(tensor.name, tensor.dtype, tensor.shape);
      }
    }
    FRUGAL_TRY(writer_->BeginData());
    FRUGAL_ASSIGN(StagedReader reader, StagedReader::Create(*checkpoint_, memory_.staging_bytes));
    FRUGAL_ASSIGN(BundlePanel panel,
                  BundlePanel::Create(plan_, config().ffn_size, memory_.panel_positions, reader));
    for (size_t i = 0; i < plan_.tensors.size(); ++i) {
      const PlannedTensor& tensor = plan_.tensors[i];
      what_ = tensor.name;
      switch (tensor.kind) {
        case Kind::kPlain:
          FRUGAL_TRY(WritePlain(i, tensor, reader));
          break;
        case Kind::kUpBias:
          FRUGAL_TRY(WriteUpBias(i, tensor, reader));
          break;
        case Kind::kBundles:
          FRUGAL_TRY(WriteBundles(i, tensor, panel));
          break;
        case Kind::kOrder:
          // uint32_t numbers below 2^31 are the same bytes as I32.
          FRUGAL_TRY(writer_->Append(i, std::as_bytes(Order(tensor.layer))));
          break;
      }
    }
    report_.largest_difference = std::max(reader.largest_difference(), panel.largest_difference());
    return {};
  }

  // The source's neuron of each position.
  std::span<const uint32_t> Order(uint32_t layer) {
    if (!options_.neuron_orders.empty()) return options_.neuron_orders[layer];
    if (identity_.empty()) {
      identity_.resize(config().ffn_size);
      std::iota(identity_.begin(), identity_.end(), 0u);
    }
    return identity_;
  }

  // After each piece.
  Status Advance(uint64_t bytes_read) {
    done_bytes_ += bytes_read;
    progress_(std::min(1.0, static_cast<double>(done_bytes_) / static_cast<double>(TotalBytes())), what_);
    if (options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed)) {
      return MakeError(ErrorCode::kFailed, "interrupted: {} was not written", options_.output_path);
    }
    return {};
  }

  uint64_t TotalBytes() const { return std::max<uint64_t>(1, plan_.source_bytes); }

  Status WritePlain(size_t index, const PlannedTensor& tensor, StagedReader& reader) {
    const TensorInfo& source = *tensor.source;
    const uint64_t count = source.rows() * source.columns();
    const uint64_t at_once = reader.CapacityElements(source, tensor.dtype);
    for (uint64_t at = 0; at < count; at += at_once) {
      const uint64_t size = std::min(at_once, count - at);
      FRUGAL_ASSIGN(const std::span<const std::byte> piece, reader.Read(source, at, size, tensor.dtype));
      FRUGAL_TRY(writer_->Append(index, piece));
      FRUGAL_TRY(Advance(size * TraitsOf(source.dtype).block_bytes));
    }
    checkpoint_->Forget(source);
    return {};
  }

  // A staging buffer holds a layer's biases: PlanPackMemory sees to that.
  Status WriteUpBias(size_t index, const PlannedTensor& tensor, StagedReader& reader) {
    FRUGAL_ASSIGN(const std::span<const std::byte> biases,
                  reader.Read(*tensor.source, 0, config().ffn_size, tensor.dtype));
    const uint64_t size_bytes = TraitsOf(tensor.dtype).block_bytes;
    std::vector<std::byte> ordered;
    ordered.reserve(biases.size());
    for (const uint32_t neuron : Order(tensor.layer)) {
      const auto bias = biases.subspan(neuron * size_bytes, size_bytes);
      ordered.insert(ordered.end(), bias.begin(), bias.end());
    }
    FRUGAL_TRY(writer_->Append(index, ordered));
    return Advance(biases.size());
  }

  Status WriteBundles(size_t index, const PlannedTensor& tensor, BundlePanel& panel) {
    const uint64_t ffn_size = config().ffn_size;
    const uint64_t layer_bytes = tensor.source->extent.size_bytes + tensor.down->extent.size_bytes;
    const uint64_t begin_bytes = done_bytes_;
    for (uint64_t first = 0; first < ffn_size; first += memory_.panel_positions) {
      const uint64_t count = std::min(memory_.panel_positions, ffn_size - first);
      // Panels of reordered neurons read more than their share.
      const uint64_t limit_bytes = begin_bytes + layer_bytes * (first + count) / ffn_size;
      FRUGAL_ASSIGN(const std::span<const std::byte> bundles,
                    panel.Build(tensor, Order(tensor.layer), first, count, [&](uint64_t bytes_read) {
                      return Advance(std::min(bytes_read, limit_bytes - std::min(limit_bytes, done_bytes_)));
                    }));
      FRUGAL_TRY(writer_->Append(index, bundles));
      checkpoint_->Forget(*tensor.source);
      checkpoint_->Forget(*tensor.down);
    }
    return {};
  }

  void FillReport() {
    report_.file_bytes = writer_->file_bytes();
    report_.source_bytes_read = checkpoint_->bytes_read();
    report_.num_parameters = plan_.num_parameters;
    for (const PlannedTensor& tensor : plan_.tensors) {
      report_.num_tensors += (tensor.source != nullptr ? 1 : 0) + (tensor.down != nullptr ? 1 : 0);
    }
    report_.stride_bytes = plan_.stride_bytes;
    report_.up_type = plan_.up_type;
    report_.down_type = plan_.down_type;
    report_.content_hash = writer_->content_hash();
    report_.memory = memory_.ledger;
    for (std::string& line : checkpoint_->UnusedTensors()) report_.warnings.push_back(std::move(line));
  }

  const PackOptions& options_;
  const Progress progress_;
  std::unique_ptr<Checkpoint> checkpoint_;
  PackPlan plan_;
  PackMemory memory_;
  std::unique_ptr<HashedGgufWriter> writer_;
  std::vector<uint32_t> identity_;  // [ffn_size], or empty
  std::string what_;
  uint64_t done_bytes_ = 0;
  PackReport report_;
};

}  // namespace

Result<PackReport> Pack(const PackOptions& options, Progress progress) {
  return Packer(options, progress).Run();
}

}  // namespace frugal
