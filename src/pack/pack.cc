#include "src/pack/pack.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <numeric>
#include <set>
#include <span>
#include <utility>

#include "src/base/clock.h"
#include "src/format/hashed_gguf_writer.h"
#include "src/format/packed_format.h"
#include "src/format/tokenizer_keys.h"
#include "src/format/untrusted_text.h"
#include "src/model/checkpoint.h"
#include "src/pack/bundle_panel.h"
#include "src/pack/key_copy.h"
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
  for (const std::optional<DType>& type : {options.type, options.down_type}) {
    if (!type || IsWritableWeightType(*type)) continue;
    return MakeError(ErrorCode::kUsage, "type of the weights: {}, expected F32, F16, BF16, Q8_0 or Q4_0", DTypeName(*type));
  }
  return {};
}

// Text, lists and keys of a vocabulary, for the memory plan: OPT's 50,265 tokens and their merges took 6.3
// times the size of vocab.json and merges.txt; the lists of a tokenizer.json are spelled longer.
uint64_t TokenizerBytes(const Checkpoint& checkpoint) {
  constexpr uint64_t kFactor = 10;
  // A GGUF's header is hardly more than its vocabulary: as it lies in the file, and strings on their way from one to the other.
  if (checkpoint.gguf() != nullptr) return 5 * checkpoint.gguf()->data_offset_bytes();
  uint64_t size_bytes = 0;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "gpt2-vocab.json", "gpt2-merges.txt",
                           "tokenizer_config.json", "added_tokens.json"}) {
    struct stat status = {};
    if (stat((checkpoint.path() + "/" + name).c_str(), &status) == 0) {
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
    FRUGAL_ASSIGN(checkpoint_, Checkpoint::Open(options_.source_path, options_.activation));
    FRUGAL_TRY(CheckNeuronOrders(options_.neuron_orders, config().num_layers, config().ffn_size));
    if (checkpoint_->HasFile(options_.output_path)) {
      return MakeError(ErrorCode::kUsage, "{}: is a file of the checkpoint itself", options_.output_path);
    }
    const PackPlanOptions plan_options = {options_.type, options_.down_type, options_.layout, options_.align_bytes};
    FRUGAL_ASSIGN(plan_, PlanPack(*checkpoint_, plan_options));
    FRUGAL_TRY(CheckFitsLayout());
    FRUGAL_ASSIGN(memory_,
                  PlanPackMemory(plan_, config(), TokenizerBytes(*checkpoint_),
                                 options_.neuron_orders.size() * config().ffn_size * sizeof(uint32_t),
                                 options_.ram_bytes));
    FRUGAL_ASSIGN(writer_, HashedGgufWriter::Open(options_.output_path, options_.overwrite));
    writer_->keys().set_fault_hook_for_test(options_.fault_hook_for_test);
    AddKeys();
    AddEffectKeys();
    FRUGAL_TRY(AddTokenizer());
    FRUGAL_TRY(WriteTensors());
    FRUGAL_TRY(checkpoint_->CheckUnchanged());
    FillReport();
    FRUGAL_TRY(MeasureEffect());
    progress_(1.0, "syncing");
    FRUGAL_TRY(writer_->Finish());
    report_.content_hash = writer_->content_hash();
    report_.elapsed_ns = NowNs() - start_ns - measure_ns_;
    return std::move(report_);
  }

 private:
  const ModelConfig& config() const { return checkpoint_->config(); }

  // What was asked for and does not fit the model.
  Status CheckFitsLayout() const {
    const bool has_bundles = plan_.layout != FfnLayout::kMatrices;
    const std::string activation = ActivationName(config().activation);
    if (options_.layout && plan_.layout != *options_.layout) {
      return MakeError(ErrorCode::kUsage, "layout {}: the model has activation {} and {}, its layout is {}",
                       FfnLayoutName(*options_.layout), activation, config().gated ? "a gate" : "no gate", FfnLayoutName(plan_.layout));
    }
    if (!has_bundles && !options_.neuron_orders.empty()) {
      return MakeError(ErrorCode::kUsage, "orders of neurons: the model has activation {}, which is never zero, and no bundles",
                       activation);
    }
    return {};
  }

  void AddKeys() {
    DType matrix_type = DType::kF32;
    for (const PlannedTensor& tensor : plan_.tensors) {
      if (tensor.name == "blk.0.attn_q.weight") matrix_type = tensor.dtype;
    }
    AddModelKeys(config(),
                 {checkpoint_->model_name(), plan_.layout, plan_.gate_type, plan_.up_type, plan_.down_type, plan_.stride_bytes,
                  matrix_type},
                 writer_->keys());
  }

  // Their values are known when all else is written.
  void AddEffectKeys() {
    if (!options_.measure) return;
    writer_->keys().AddString(kPerplexityTextKey, options_.measured_text);
    writer_->keys().AddFloat64(kPerplexitySourceKey, 0);
    writer_->keys().AddFloat64(kPerplexityPackedKey, 0);
    writer_->keys().AddUint64(kPerplexityTokensKey, 0);
  }

  // The buffers that weights went through are free by now.
  Status MeasureEffect() {
    if (!options_.measure || report_.largest_difference == 0) return {};
    const uint64_t start_ns = NowNs();
    progress_(1.0, "measuring perplexity");
    FRUGAL_TRY(writer_->WriteHashes());
    GgufWriter& keys = writer_->keys();
    const uint64_t source_header_bytes = checkpoint_->gguf() != nullptr ? checkpoint_->gguf()->data_offset_bytes() : 0;
    const uint64_t held_bytes = HashedGgufWriter::MemoryBytes(plan_.num_hashes) + keys.HeaderBytes().size() + source_header_bytes +
                                options_.neuron_orders.size() * config().ffn_size * sizeof(uint32_t);
    FRUGAL_ASSIGN(report_.effect, options_.measure(keys.temporary_path(), report_, held_bytes));
    measure_ns_ = NowNs() - start_ns;
    if (!report_.effect) return {};
    FRUGAL_TRY(keys.ReplaceFloat64(kPerplexitySourceKey, report_.effect->before));
    FRUGAL_TRY(keys.ReplaceFloat64(kPerplexityPackedKey, report_.effect->after));
    return keys.ReplaceUint64(kPerplexityTokensKey, report_.effect->num_tokens);
  }

  // The vocabulary's memory is free again before any weight is read.
  Status AddTokenizer() {
    if (checkpoint_->gguf() != nullptr) return CopyTokenizer(*checkpoint_->gguf());
    Result<Vocabulary> vocabulary = ReadHuggingFaceVocabulary(checkpoint_->path());
    if (!vocabulary) {
      // kFailed is "there is none"; a tokenizer that is there and broken has another code.
      if (vocabulary.error().code != ErrorCode::kFailed) return std::move(vocabulary).error();
      report_.warnings.push_back(vocabulary.error().message);
      return AddIdsOfConfig();
    }
    // What the engine would refuse is refused here.
    FRUGAL_ASSIGN(const Tokenizer tokenizer, Tokenizer::Create(*vocabulary, checkpoint_->path()));
    if (vocabulary->tokens.size() > config().vocab_size) {
      return BadModel("{}: the tokenizer has {} tokens, but vocab_size in config.json is {}",
                      checkpoint_->path(), vocabulary->tokens.size(), config().vocab_size);
    }
    AddVocabularyKeys(*vocabulary, writer_->keys());
    report_.has_tokenizer = true;
    return {};
  }

  // As it stands there.
  Status CopyTokenizer(const GgufReader& gguf) {
    for (const GgufKeyValue& entry : gguf.key_values()) {
      if (!entry.key.starts_with("tokenizer.")) continue;
      FRUGAL_TRY(CopyGgufKey(gguf, entry, writer_->keys()));
    }
    report_.has_tokenizer = gguf.Find(tokenizer_keys::kTokens) != nullptr;
    return {};
  }

  Status AddIdsOfConfig() {
    const std::array<std::pair<const char*, int32_t>, 2> ids = {
        {{tokenizer_keys::kBosId, config().bos_id}, {tokenizer_keys::kEosId, config().eos_id}}};
    for (const auto& [key, id] : ids) {
      if (id < 0) continue;
      if (static_cast<uint32_t>(id) >= config().vocab_size) {
        return BadModel("{}/config.json: {} is {}, but vocab_size is {}", checkpoint_->path(), key, id,
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
        case Kind::kRows:
          FRUGAL_TRY(WriteRows(i, tensor, reader, [&tensor](uint64_t row) { return tensor.rows.SourceRow(row); }));
          break;
        case Kind::kPositions: {
          const std::span<const uint32_t> order = Order(tensor.layer);
          FRUGAL_TRY(WriteRows(i, tensor, reader, [order](uint64_t row) { return order[row]; }));
          break;
        }
        case Kind::kPlusOne:
          FRUGAL_TRY(WritePlusOne(i, tensor, reader));
          break;
        case Kind::kValues:
          FRUGAL_TRY(writer_->Append(i, std::as_bytes(std::span(tensor.values))));
          break;
        case Kind::kBundles:
          FRUGAL_TRY(WriteBundles(i, tensor, panel));
          break;
        case Kind::kOrder:
          // uint32_t numbers below 2^31 are the same bytes as I32.
          FRUGAL_TRY(writer_->Append(i, std::as_bytes(Order(tensor.layer))));
          break;
        case Kind::kLargestDifference:
          report_.largest_difference = std::max(reader.largest_difference(), panel.largest_difference());
          FRUGAL_TRY(writer_->Append(i, std::as_bytes(std::span(&report_.largest_difference, 1))));
          break;
      }
    }
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
      FRUGAL_TRY(Advance(*RowBytes(source.dtype, size)));
    }
    checkpoint_->Forget(source);
    return {};
  }

  // Row i of the tensor (element i of a vector) is the source's row source_row(i). Rows that follow each other there too are
  // read together.
  Status WriteRows(size_t index, const PlannedTensor& tensor, StagedReader& reader, FunctionRef<uint64_t(uint64_t)> source_row) {
    const TensorInfo& source = *tensor.source;
    const uint64_t row_size = tensor.shape.size() == 2 ? tensor.shape[1] : 1;
    const uint64_t num_rows = tensor.shape[0];
    // PlanPackMemory sees to it that a row fits.
    const uint64_t rows_at_once = reader.CapacityElements(source, tensor.dtype) / row_size;
    CHECK(rows_at_once > 0);
    for (uint64_t row = 0; row < num_rows;) {
      const uint64_t first = source_row(row);
      uint64_t count = 1;
      while (count < rows_at_once && row + count < num_rows && source_row(row + count) == first + count) ++count;
      FRUGAL_ASSIGN(const std::span<const std::byte> piece, reader.Read(source, first * row_size, count * row_size, tensor.dtype));
      FRUGAL_TRY(writer_->Append(index, piece));
      FRUGAL_TRY(Advance(*RowBytes(source.dtype, count * row_size)));
      row += count;
    }
    checkpoint_->Forget(source);
    return {};
  }

  // The sum is exact but for F32 weights, as it is in every program that adds the 1 when it computes.
  Status WritePlusOne(size_t index, const PlannedTensor& tensor, StagedReader& reader) {
    FRUGAL_ASSIGN(const std::span<const std::byte> stored, reader.Read(*tensor.source, 0, tensor.shape[0], DType::kF32));
    std::vector<float> values(tensor.shape[0]);
    std::memcpy(values.data(), stored.data(), stored.size());
    for (float& value : values) value += 1.0f;
    FRUGAL_TRY(writer_->Append(index, std::as_bytes(std::span(values))));
    return Advance(tensor.source->extent.size_bytes);
  }

  Status WriteBundles(size_t index, const PlannedTensor& tensor, BundlePanel& panel) {
    const uint64_t ffn_size = config().ffn_size;
    const uint64_t layer_bytes = tensor.source->extent.size_bytes + tensor.down->extent.size_bytes +
                                 (tensor.gate != nullptr ? tensor.gate->extent.size_bytes : 0);
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
      if (tensor.gate != nullptr) checkpoint_->Forget(*tensor.gate);
    }
    return {};
  }

  void FillReport() {
    report_.file_bytes = writer_->file_bytes();
    report_.source_bytes_read = checkpoint_->bytes_read();
    report_.num_parameters = plan_.num_parameters;
    report_.layout = plan_.layout;
    report_.gate_type = plan_.gate_type;
    report_.activation = config().activation;
    std::set<const TensorInfo*> used;  // fused projections once
    for (const PlannedTensor& tensor : plan_.tensors) {
      for (const TensorInfo* source : {tensor.source, tensor.gate, tensor.down}) {
        if (source != nullptr) used.insert(source);
      }
    }
    report_.num_tensors = used.size();
    report_.stride_bytes = plan_.stride_bytes;
    report_.up_type = plan_.up_type;
    report_.down_type = plan_.down_type;
    report_.memory = memory_.ledger;
    for (const TensorInfo* tensor : checkpoint_->UnusedTensors()) {
      report_.warnings.push_back(fmt::format("{}: tensor {} [{}] is not used", checkpoint_->PathOf(*tensor), Printable(tensor->name),
                                             fmt::join(tensor->shape, ", ")));
    }
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
  uint64_t measure_ns_ = 0;
  PackReport report_;
};

}  // namespace

Result<PackReport> Pack(const PackOptions& options, Progress progress) {
  return Packer(options, progress).Run();
}

}  // namespace frugal
