// The forward pass of all architectures: a decoder of attention and FFN, with the features that ModelConfig names; transformers' code of
// each architecture is the reference. A step takes a batch of (sequence, token, position) rows: decode is one row, prefill many. A row's
// result does not depend on the other rows.
//
// forward.cc: a step and a layer; forward_attention.cc: attention; forward_ffn.cc: the FFN from bundles; forward_chosen.cc: of many rows;
// forward_dense.cc: from matrices.
// All memory is allocated by the constructor. Engine thread only; inner loops run on the pool.
#pragma once

#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "src/base/aligned_vector.h"
#include "src/base/function_ref.h"
#include "src/base/thread_pool.h"
#include "src/kernels/row_spans.h"
#include "src/kernels/token_panels.h"
#include "src/model/chosen_room.h"
#include "src/model/kv_cache.h"
#include "src/model/rotation.h"
#include "src/model/tiles.h"
#include "src/model/weights.h"
#include "src/select/selector.h"

namespace frugal {

struct BatchRow {
  KvCache* kv = nullptr;
  int32_t token = 0;
  uint32_t position = 0;  // all earlier positions of the sequence are in kv, or earlier in this batch
};

// What an observer sees of a layer, for training and for measuring recall; valid during the call.
struct LayerObservation {
  uint32_t layer = 0;
  uint32_t num_rows = 0;
  const float* early_input = nullptr;      // [num_rows, hidden_size]: what attention sees
  const float* ffn_input = nullptr;        // [num_rows, hidden_size]: what the FFN sees
  std::span<const uint32_t> positions;     // union of the rows' active sets, ascending
  std::span<const uint64_t> active;        // [num_rows, Selector::WordsPerToken(ffn_size)]: chosen by the selector
  // [num_rows, activation_stride]: what down is multiplied with, by index into `positions`; 0 where not active.
  const float* activations = nullptr;
  size_t activation_stride = 0;
  const float* gates = nullptr;  // [num_rows, ffn_size]: activated, of all neurons by position; nullptr where the gate is no matrix
};
using LayerObserver = FunctionRef<Status(const LayerObservation&)>;

struct ForwardTimes {
  uint64_t attention_ns = 0, ffn_ns = 0, select_ns = 0, output_ns = 0;
};

// What weights are multiplied with: quantised ones take quantised inputs (kernels/quantised_kernels.h), the others those of many rows in
// panels (kernels/token_panels.h).
struct MatrixInputs {
  bool panels = true;
  bool quantised = false;
};

class Forward {
 public:
  // Early prediction is for steps of so many rows.
  static constexpr uint32_t kEarlyRows = 1;

  // `early` may be nullptr: it judges what attention sees. Where it is `selector` itself, it judges the residual before attention as the
  // FFN's norm gives it. max_rows: the largest batch; max_logit_rows: of these, how many logits are asked for at most.
  // max_context: of any sequence.
  Forward(Weights& weights, Selector& selector, Selector* early, ThreadPool& pool, uint32_t max_rows, uint32_t max_logit_rows,
          uint32_t max_context);

  // Where the gate is a matrix: a neuron whose activated gate is at or below its layer's threshold in magnitude does not count. Without
  // them the threshold is 0, which leaves out nothing. `thresholds` [num_layers] outlives this.
  void set_gate_thresholds(std::span<const float> thresholds) { gate_thresholds_ = thresholds; }

  static MatrixInputs InputsOf(const ModelFile& model, const WeightPlan& plan) {
    return {model.has_float_rows(), UsesQuantisedInputs(model, plan)};
  }
  static uint64_t MemoryBytes(const ModelConfig& config, uint32_t num_threads, uint32_t max_rows, uint32_t max_logit_rows,
                              uint32_t max_context, MatrixInputs inputs);

  // Runs all layers; writes the KV of the rows; logits of the last `num_logit_rows` rows (at least 1). A NaN or infinity in the
  // logits is kBadModel and names the first layer that made it.
  Status Step(std::span<const BatchRow> rows, uint32_t num_logit_rows, const LayerObserver* observer = nullptr);
  // [num_logit_rows, vocab_size], valid until the next Step.
  std::span<const float> logits() const { return logits_; }

  // --- layer by layer, for training ---
  Status Embed(std::span<const BatchRow> rows);
  // The residual stream of the rows, to be kept and put back between layers. // [max_rows, hidden_size]
  std::span<float> residual() { return residual_; }
  // `kv_layer`: the layer's index in the rows' KV caches.
  Status RunLayer(uint32_t layer, uint32_t kv_layer, std::span<const BatchRow> rows, const LayerObserver* observer);

  const ForwardTimes& times() const { return times_; }

 private:
  // A norm's weight and bias, which is empty where the norm has none.
  struct NormVectors {
    std::span<const float> weight, bias;
  };
  NormVectors Norm(uint32_t layer, LayerVector weight, LayerVector bias) const {
    return {weights_.vector(layer, weight), weights_.vector(layer, bias)};
  }
  void NormalizeInput(uint32_t layer, uint32_t num_rows);
  void NormalizeFfnInput(uint32_t layer, uint32_t num_rows);
  void AddResult(uint32_t layer, LayerVector post_norm, uint32_t num_rows);

  // Into block_out_. Attention's input is normed_, the FFN's ffn_input_.
  Status Attention(uint32_t layer, uint32_t kv_layer, std::span<const BatchRow> rows);
  void PlaceHeads(uint32_t layer, uint32_t kv_layer, const BatchRow& row, uint32_t row_index);
  void NormalizeHead(NormVectors norm, float* head) const;
  static constexpr uint32_t kAttendedTogether = kPanelTokens;
  static size_t ScoreFloats(const ModelConfig& config, uint32_t max_rows, uint32_t max_context);
  float* ScoreRoom(int worker) { return scores_.data() + scores_.size() / pool_.num_threads() * worker; }
  RowSpan SeenBy(uint32_t layer, const BatchRow& row) const;
  void AttendHead(uint32_t layer, uint32_t kv_layer, const BatchRow& row, uint32_t row_index, uint32_t head, int worker);
  void AttendTogether(uint32_t layer, uint32_t kv_layer, std::span<const BatchRow> rows, uint32_t first_row, uint32_t head, int worker);
  Status Ffn(uint32_t layer, uint32_t num_rows, const LayerObserver* observer);
  Status BundledFfn(uint32_t layer, uint32_t num_rows);
  Status DenseFfn(uint32_t layer, uint32_t num_rows);
  // Matrix product of the gate with its bias and activation; ffn_input_ was prepared. // gates_ [num_rows, ffn_size]
  Status ComputeGates(uint32_t layer, uint32_t num_rows);
  void Select(uint32_t layer, uint32_t num_rows);
  void SelectByGates(uint32_t layer, uint32_t num_rows);
  Status Observe(uint32_t layer, uint32_t num_rows, const LayerObserver& observer);
  // Members of a wave that became ready together, and their up rows: row i of `rows` is that of members[i].
  struct ReadyBundles {
    std::span<const uint32_t> members;
    RowSet rows;
  };
  Status ComputeActivations(uint32_t layer, const BundleWave& wave, uint32_t num_rows);
  void ActivateAll(uint32_t layer, const BundleWave& wave, const ReadyBundles& ready, size_t begin, size_t end, uint32_t num_rows,
                   int worker);
  // Neurons that more than this share of the rows chose are multiplied with all of them. A product of the others takes longer, since no
  // weight in a register serves two rows (docs/decisions/0008-prompts.md).
  static constexpr double kCommonShare = 0.6;
  static constexpr uint32_t kNoLayer = ~0u;
  struct PartedBundles {
    ReadyBundles common, rare;
  };
  PartedBundles Part(const BundleWave& wave, const ReadyBundles& ready, uint32_t num_rows);
  bool TakesChosenTogether(const BundleInfo& bundle, uint32_t num_rows) const;
  // A tile is some members with some of the batch's rows. Tiles of the same members follow each other.
  struct ChosenTiles {
    Tiles members;
    uint32_t num_rows = 0, rows_of_tile = 1;
    int row_parts() const { return static_cast<int>((num_rows + rows_of_tile - 1) / rows_of_tile); }
    int count() const { return members.count * row_parts(); }
  };
  ChosenTiles CutChosen(const BundleInfo& bundle, size_t num_members, uint32_t num_rows) const;
  void ActivateChosen(uint32_t layer, const BundleWave& wave, const ReadyBundles& ready, const ChosenTiles& tiles, int tile, int worker);
  void ActivateOneByOne(uint32_t layer, const BundleWave& wave, const ReadyBundles& ready, size_t begin, size_t end, uint32_t row,
                        int worker);
  uint32_t ListPairs(const BundleWave& wave, std::span<const uint32_t> members, uint32_t first, uint32_t end_row,
                     ChosenRoom& room) const;
  uint32_t ActivateTogether(uint32_t layer, const BundleWave& wave, const ReadyBundles& ready, size_t begin, size_t end, uint32_t first,
                            uint32_t end_row, int worker);
  // out[row, i] = up row i (or gate row) . FFN input of row first_row + row, for i < count. All rows of the batch, or one.
  void DotUpRows(DType dtype, const RowSet& up, size_t count, uint32_t first_row, uint32_t num_rows, int worker, float* out);
  // Up's products of one row with members[i] of a wave become its activations, in place; `gates`: the gate's products, with bundle3.
  void FinishProducts(uint32_t layer, uint32_t row, const BundleWave& wave, const uint32_t* members, size_t count, float* products,
                      float* gates) const;
  bool has_bundled_gate() const { return config_.ffn_layout == FfnLayout::kBundle3; }
  bool selects_by_gates() const { return config_.ffn_layout == FfnLayout::kGateAndBundle2; }
  static uint64_t ProductFloats(const ModelConfig& config, uint32_t max_rows);  // of a thread
  static bool HasChosenRooms(const ModelConfig& config, uint32_t max_rows);
  static uint64_t KvFloats(const ModelConfig& config, uint32_t max_rows);
  static uint64_t GateFloats(const ModelConfig& config, uint32_t max_rows);
  bool IsChosen(uint32_t row, uint32_t position) const;
  void SumDown(uint32_t layer, const BundleWave& wave, uint32_t num_rows);
  void SumDownOfMany(uint32_t layer, const BundleWave& wave, uint32_t num_rows);
  uint32_t AddMembers(const BundleInfo& bundle, const BundleWave& wave, size_t first, size_t count, uint32_t row, uint32_t num_rows);
  uint32_t ListActive(size_t first, size_t count, uint32_t row, uint32_t num_rows, ChosenRoom& room) const;
  void AddDownRows(const BundleInfo& bundle, const RowSet& rows, size_t count, uint32_t first_row, uint32_t begin, uint32_t end,
                   ChosenRoom& room);
  bool GuessesEarly(uint32_t num_rows) const;
  // Lists what the early selector expects of the layer, from the residual stream as it is.
  void GuessEarly(uint32_t layer);
  // Takes slots for what is absent of the last guess.
  void PrefetchGuess();
  void AskForChosen(uint32_t layer, uint32_t begin, uint32_t end);
  void PrefetchSelected(uint32_t layer, uint32_t num_rows);
  // Lists the union of `num_rows` active sets into positions_ and counts_.
  void ListUnion(uint32_t num_rows);
  // Tells what the last of a batch's rows chose of a layer that is read past the cache.
  void KeepRecent(uint32_t num_rows);
  Status Output(std::span<const BatchRow> rows, uint32_t num_logit_rows);
  // Quantises x [num_rows, x_stride] for the products that follow, and lays it out in panels, when one of their types asks for it.
  void PrepareInput(std::initializer_list<DType> types, const float* x, size_t x_stride, uint32_t num_rows, size_t columns);
  float* PanelScratch(int worker) { return panel_scratch_.data() + panel_scratch_.size() / pool_.num_threads() * worker; }
  DType MatrixType(uint32_t matrix) const;
  // Calls work(begin, end) for pieces of [0, size), on all threads.
  void ForEachPiece(size_t size, FunctionRef<void(size_t begin, size_t end)> work);
  // out [num_rows, out_stride] = matrix x + bias (may be empty)
  struct Product {
    uint32_t matrix = 0;
    std::span<const float> bias;
    float* out = nullptr;
    size_t out_stride = 0;
  };
  // Products with the same x [num_rows, x_stride], which was prepared. Of matrices that are in memory the threads take tiles together.
  Status MatMul(std::initializer_list<Product> products, const float* x, size_t x_stride, uint32_t num_rows);
  // Rows [begin, end) of a block of the product's matrix.
  void MultiplyTile(const Product& product, const RowBlock& block, uint64_t begin, uint64_t end, const float* x, size_t x_stride,
                    uint32_t num_rows, int worker);
  // [num_rows, hidden_size]; x may equal out.
  void Normalize(NormVectors norm, const float* x, uint32_t num_rows, float* out);
  // Of many rows the threads take some each.
  void ForEachRow(uint32_t num_rows, FunctionRef<void(uint32_t row)> work);
  void AddToResidual(uint32_t num_rows);
  void CheckFinite(uint32_t layer, uint32_t num_rows);

  Weights& weights_;
  const ModelConfig& config_;
  Selector& selector_;
  Selector* early_;
  ThreadPool& pool_;
  const uint32_t max_rows_;
  const uint32_t max_context_;
  std::span<const float> gate_thresholds_;

  AlignedVector<float> residual_;    // [max_rows, hidden_size]
  AlignedVector<float> normed_;      // [max_rows, hidden_size]: attention's input
  AlignedVector<float> q_;           // [max_rows, query_size]; becomes attention's output
  AlignedVector<float> ffn_input_;   // [max_rows, hidden_size]
  AlignedVector<float> block_out_;   // [max_rows, hidden_size]
  AlignedVector<float> kv_;          // [2, max_rows, kv_size], where keys_ and values_ do not lie in other buffers
  float* keys_ = nullptr;            // [max_rows, kv_size] of the layer, on their way to the cache: in block_out_, or kv_
  float* values_ = nullptr;          // likewise: in ffn_input_, or kv_
  AlignedVector<float> embedding_;   // [max_rows, embedding_size], where project_in/out exist
  AlignedVector<float> scores_;      // [num_threads, ScoreFloats]
  std::vector<uint64_t> active_;     // [max_rows, words]
  // A guess of what the FFN of layer guessed_layer_ will use, and that layer, or kNoLayer.
  AlignedVector<float> early_input_;       // [hidden_size]
  std::vector<uint64_t> early_active_;     // [words]
  std::vector<uint32_t> early_positions_;  // [ffn_size]
  uint32_t guessed_layer_ = kNoLayer;
  std::vector<uint32_t> positions_;  // [ffn_size]
  std::vector<uint32_t> counts_;     // [positions]: rows that chose each; meanwhile [words, 64]
  AlignedVector<float> activations_; // [max_rows, ffn_size]
  AlignedVector<float> gates_;       // [max_rows, ffn_size], activated, where the gate is a matrix
  AlignedVector<float> products_;    // [num_threads, 2 with bundle3 else 1, products_per_thread_]: of a tile
  const size_t products_per_thread_;
  std::vector<uint32_t> parted_members_, parted_rows_;  // [ffn_size]
  std::vector<ChosenRoom> chosen_rooms_;                // [num_threads], where rows are many
  std::vector<float> logits_;        // [max_logit_rows, vocab_size]
  AlignedVector<float> panels_;        // of the prepared input, where weights are float and rows many
  AlignedVector<float> panel_scratch_; // [num_threads, PanelScratchFloats]
  AlignedVector<int8_t> input_q_;    // [max_rows, the longest row of a matrix], where weights are quantised
  std::vector<float> input_scales_;  // one for each 32 of input_q_
  Rotation rotation_;
  Rotation local_rotation_;          // of layers with a window, where the config has it
  int32_t first_bad_layer_ = -1;
  ForwardTimes times_;
};

}  // namespace frugal
