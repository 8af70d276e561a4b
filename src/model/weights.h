// The seam of design.md section 4: the forward pass asks for weights here and does not know where they live. Owns the files, the reader,
// the resident buffer, the streams and the bundle cache. Engine thread only; between tiles it is polled.
//
// Order of use: the blocks of a streamed plan must be asked for in the order of the forward pass (layer by layer q, k, v, o, then gate, up
// and down or the bundles; then project_out, output). One pass = one step, whatever its batch.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "src/base/function_ref.h"
#include "src/cache/bundle_cache.h"
#include "src/io/whole_reader.h"
#include "src/kernels/kernels.h"
#include "src/model/model_file.h"
#include "src/model/stream_ring.h"
#include "src/model/weight_plan.h"

namespace frugal {

// Rows [first_row, first_row + num_rows) of a matrix, in memory for the time of the call.
struct RowBlock {
  uint64_t first_row = 0, num_rows = 0;
  RowSet rows;
  bool interleaved = false;  // as InterleaveRows leaves them: `rows` is for DotInterleavedRows and CopyInterleavedRow
};

// A part of a layer's active set whose bundles are in memory together: members [begin, end) of the active list.
struct BundleWave {
  size_t begin = 0, end = 0;
  RowSet rows;  // row i: the bundle of member begin + i; valid for members that NextReady has given out
};

struct WeightsStatistics {
  ReadStatistics reads;
  CacheStatistics cache;
  uint64_t stall_ns = 0;        // blocked in a wait with nothing to compute
  uint64_t ffn_bytes_read = 0;  // bundles, in whatever way; part of reads.bytes_read
  uint64_t hash_bytes = 0;      // verified
};

struct WeightsOptions {
  IoBackend backend = IoBackend::kAuto;
  DirectMode direct = DirectMode::kTry;
  uint32_t queue_depth = 64;
  uint32_t num_pread_threads = 8;
  // Test seam: wraps the reader (fault_reader.h).
  std::function<std::unique_ptr<ExtentReader>(std::unique_ptr<ExtentReader>)> decorate_reader;
};

class Weights {
 public:
  // Reads what is resident, the vectors and the hashes; verifies all of it (unless VerifyMode::kOff, or the file has no hashes). `model`
  // outlives this.
  static Result<std::unique_ptr<Weights>> Open(const ModelFile& model, const WeightPlan& plan, const WeightsOptions& options);
  ~Weights();

  // Memory of tables for the ledger: hashes kept, vectors, position scratch, reader.
  static uint64_t VectorBytes(const ModelFile& model);
  static uint64_t HashTableBytes(const ModelFile& model, const WeightPlan& plan);
  static uint64_t ScratchBytes(const ModelFile& model);
  static uint64_t ReaderBytes(const WeightsOptions& options);
  // What opening takes for a while: bytes on their way to the plan's resident_type.
  static uint64_t ConversionBytes(const ModelFile& model, const WeightPlan& plan);

  // --- what the forward pass asks for ---
  // Empty where the model has none.
  std::span<const float> vector(uint32_t layer, LayerVector which) const;
  std::span<const float> vector(GlobalVector which) const;
  // One row of a matrix as floats. // out [columns]
  Status ReadRow(uint32_t matrix, uint64_t row, std::span<float> out);
  // The type of the rows that ForEachRowBlock gives.
  DType matrix_type(uint32_t matrix) const { return MemoryType(model_, plan_, matrix); }
  // The matrix where all of it lies in memory side by side.
  std::optional<RowBlock> ResidentRows(uint32_t matrix) const;
  // Calls fn for every block of the matrix, in order, each as soon as it is there.
  Status ForEachRowBlock(uint32_t matrix, FunctionRef<void(const RowBlock&)> fn);
  // The bundles of a layer's active set (ascending positions; counts[i] tokens of num_tokens want positions[i]).
  Status BeginBundles(uint32_t layer, std::span<const uint32_t> positions, std::span<const uint32_t> counts, uint32_t num_tokens);
  // Whether the layer's bundles are read past the cache: they are most of it, of a batch of several tokens.
  bool scans() const { return open_.source == BundleSource::kScan; }
  // Of such a batch the slots keep what its last tokens used, the most used first, as far as the layer's share of the slots goes.
  // positions[i] (of the active set), used by counts[i] > 0 of the last kRecentTokens tokens. Right after BeginBundles.
  static constexpr uint32_t kRecentTokens = 16;
  void KeepRecent(std::span<const uint32_t> positions, std::span<const uint32_t> counts);
  // The next wave; end == begin when there is none left.
  Result<BundleWave> NextWave();
  // Members of the current wave (indices from its begin) whose up rows are in memory and were not given out yet; waits for at least
  // one. Empty: all were given out. `rows` gets the RowSet of just these.
  Result<std::span<const uint32_t>> NextReady(RowSet* rows);
  // Waits until every bundle of the wave is wholly there.
  Status FinishWave();
  void EndWave();
  void EndBundles();

  // Early prediction: takes slots for what is absent of `layer`, whose bundles are the next to be asked for: before its BeginBundles, or
  // since the last wave of the layer before. Their reads begin with StartPrefetched. kCertain: what BeginBundles will be called with; these
  // reads begin at once. No effect where bundles do not live on demand.
  void Prefetch(uint32_t layer, std::span<const uint32_t> positions, Need need = Need::kGuess);
  void StartPrefetched();
  // For a batch of several tokens: the layer is read whole when the one before it was. Its first reads start now.
  void PrefetchWhole(uint32_t layer);
  // Reads that a poll starts between two tiles at most. One takes its thread some 4 microseconds, in which the others run out of tiles.
  static constexpr size_t kMostStarts = 16;
  // Starts reads and reaps; an error is kept for the next call that returns a Status. What a layer that is read past the cache asks of its
  // bytes, hashes and copies into slots, is done here too, as far as it can be: meanwhile the other threads work.
  void Poll();
  Status EndStep();
  // Between steps: waits for what is read ahead. No stall, for no step waits.
  Status Settle();

  // Reads bundles into slots that are never given up (the popular part). Before the first step; pins at most what leaves
  // half of the slots free; returns how many.
  Result<size_t> PinPopular(uint32_t layer, std::span<const uint32_t> positions);
  // Reads one bundle into `out` [stride_bytes, 512-aligned] past the cache, for sampling; not counted as FFN traffic.
  Status ReadBundle(uint32_t layer, uint32_t position, std::span<std::byte> out);
  // The bundle in memory, nullptr when it is not ready.
  const std::byte* PeekBundle(uint32_t layer, uint32_t position) const;

  const ModelFile& model() const { return model_; }
  const WeightPlan& plan() const { return plan_; }
  std::span<const File> files() const { return files_; }
  // What is resident, and the slots.
  std::array<std::span<const std::byte>, 2> memory() const;
  std::string_view backend_name() const { return reader_->backend_name(); }
  const std::string& reader_note() const { return reader_note_; }
  uint64_t content_hash() const { return content_hash_; }
  bool bundles_on_demand() const { return cache_ != nullptr; }
  WeightsStatistics statistics() const;
  BundleCache* cache() { return cache_.get(); }

 private:
  enum class BundleSource { kNone, kBlocks, kCache, kScan };
  struct OpenBundles {  // state between BeginBundles and EndBundles
    BundleSource source = BundleSource::kNone;
    uint32_t layer = 0;
    std::span<const uint32_t> positions;
    size_t cursor = 0;         // first member not in a wave yet
    BundleWave wave;           // current
    size_t ahead_begin = 0, ahead_end = 0;  // acquired for the next wave
    size_t num_given = 0;      // members of the wave given out
    size_t wave_cap = 0;
    uint32_t block = 0;        // kBlocks, kScan: next block
    std::optional<uint64_t> release;  // kBlocks, kScan: the group to give back after the wave
    uint32_t num_verified = 0;  // kScan: blocks
    bool is_kept = false;       // kScan: the wave, as far as it is to be
  };

  Weights(const ModelFile& model, const WeightPlan& plan, std::vector<File> files);
  Status Load(const WeightsOptions& options);
  Status LoadHashes();
  Status VerifyHeader(uint64_t expected);
  Status LoadVectors();
  Status LoadResident();
  Status LoadConverted(const WeightBlock& block, AlignedBuffer& staging);
  void InterleaveResident();
  Status OpenCache();
  Status VerifyChunks(const std::string& name, uint64_t row_bytes, uint64_t first_byte, uint64_t first_hash,
                      std::span<const std::byte> bytes, uint64_t file_offset);
  Status VerifyBundles(const WeightBlock& block, const std::byte* bytes);
  Status VerifyBlock(const WeightBlock& block, const std::byte* bytes);
  Status LoadVector(const VectorInfo& info, std::span<float> out, AlignedBuffer& scratch);
  void Dispatch(std::span<const WholeCompletion> completions);
  void Reap(WaitMode mode);
  Status WaitSome();
  Status TakeError();
  // A block's bytes, waited for; `release` gets the group to give back after its use when the block is its last.
  Result<const std::byte*> BlockData(uint32_t block, std::optional<uint64_t>* release);
  // The rows from block `index` on, whose data are there; index becomes that of the first block which is not among them.
  RowBlock TakeRows(const std::byte* data, uint32_t* index) const;
  Status WaitForGroup(StreamRing& ring, uint64_t sequence);
  Result<BundleWave> NextBlockWave();
  void StartScan(uint32_t layer);
  void LendToScan(uint32_t num_tokens);
  Result<BundleWave> NextScanWave();
  Result<BundleWave> NextCacheWave();
  BundleWave MakeBlockWave(const WeightBlock& block, const std::byte* data);
  Status VerifyScanned(uint32_t block);
  void KeepWave();
  // What is read for `size_bytes` of a tensor: up to the next multiple of 4096, where the file is packed.
  uint64_t ReadBytes(uint64_t size_bytes) const;
  Status Direct(uint32_t file_index, uint64_t offset_bytes, std::span<std::byte> destination, const std::string& what);
  // A failed read of one of `layout`'s groups.
  Error StreamError(const BlockLayout& layout, const StreamGroup& group, const ReadFailure& failure) const;

  const ModelFile& model_;
  const WeightPlan plan_;
  std::vector<File> files_;  // of packed models one
  std::string reader_note_;
  std::unique_ptr<WholeReader> reader_;  // outlives what it reads into: members below drain it
  uint64_t content_hash_ = 0;
  BlockLayout layout_;
  std::vector<uint32_t> matrix_first_block_;  // [num matrices + 1 sentinel by lookup]; kNoMatrix when absent
  std::vector<uint32_t> bundle_first_block_;  // [num_layers]
  std::vector<uint8_t> interleaved_;          // [num matrices]: whether their resident rows are
  AlignedBuffer resident_;
  std::vector<float> vectors_;
  std::vector<std::array<size_t, kNumLayerVectors>> vector_at_;
  std::array<size_t, kNumGlobalVectors> global_vector_at_{};
  std::vector<uint64_t> tensor_hashes_;
  std::vector<uint64_t> bundle_hashes_;   // [num_layers * ffn_size]
  std::vector<uint8_t> block_verified_;   // [blocks]
  std::vector<uint8_t> scan_verified_;    // [num_layers]
  std::optional<StreamRing> stream_;
  std::optional<StreamRing> scan_;
  uint64_t stream_base_ = 0;              // sequence of the pass's first group
  BlockLayout scan_layout_;
  bool scanned_last_ = false;            // the step's last layer was worth reading whole
  std::optional<uint32_t> scan_ahead_;   // the layer that PrefetchWhole began
  bool has_lent_ = false;                // slots to scan_, until the step ends
  std::unique_ptr<BundleCache> cache_;
  OpenBundles open_;
  std::vector<uint32_t> wave_index_;      // [ffn_size]: row of each member of the active list: slot, or row of a block
  std::vector<uint32_t> ready_members_;   // [ffn_size]
  std::vector<uint32_t> ready_rows_;      // [ffn_size]
  std::vector<uint8_t> given_;            // [ffn_size]
  std::vector<uint8_t> kept_;             // [ffn_size]: what a scan's wave leaves in the slots
  AlignedBuffer row_scratch_;
  std::optional<Error> error_;
  uint64_t stall_ns_ = 0;
  uint64_t block_ffn_bytes_ = 0;  // bundles read with blocks and scans
  uint32_t num_popular_ = 0;
  uint64_t hash_bytes_ = 0;
};

}  // namespace frugal
