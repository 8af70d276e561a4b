// What a user may choose about a run. Plain data; the planner (plan.h) turns it into a MemoryPlan or refuses.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "src/cache/bundle_cache.h"
#include "src/format/gate_thresholds.h"
#include "src/io/extent_reader.h"
#include "src/io/file.h"
#include "src/model/config.h"
#include "src/tensor/dtype.h"

namespace frugal {

// Modes are plans, not other forward passes. resident, naive and hybrid compute with all neurons.
enum class RunMode {
  kResident,  // everything in RAM
  kNaive,     // the paper's baseline: the whole model is read for every token
  kHybrid,    // as much as the budget holds is resident, the rest is read for every token; no sparsity
  kFlash,     // attention resident, neurons on demand
};
const char* RunModeName(RunMode mode);

// What chooses a token's neurons in flash mode.
enum class SelectorKind {
  kAuto,       // by layout, files and budget (selector_choice.h)
  kPredictor,  // trained: NAME.predict.gguf
  kSketch,     // a copy of the gate in 4 bits, without training
  kGate,       // the gate itself: exact
  kAll,        // no choice: exact
};

// What a model's tokenizer takes.
struct TokenizerBytes {
  uint64_t held = 0;     // while the engine is open; 0 where there is none
  uint64_t reading = 0;  // besides, while it is made, before any weight is read: files that are read whole
};

struct EngineOptions {
  std::string model_path;
  // Replaces what the file says: a GGUF has no key for a ReLU where its architecture's activation is another.
  std::optional<Activation> activation;
  SelectorKind selector = SelectorKind::kAuto;  // of flash mode; the others compute with all neurons
  std::string predictor_path;  // empty: NAME.predict.gguf beside the model, when it exists
  // Lossy, opt-in, of models whose gate is a matrix and never zero: neurons whose activated gate is at or below their layer's threshold
  // are left out. The thresholds are those of `thresholds` or, without it, of sparsify_path.
  bool sparsify = false;
  std::string sparsify_path;  // empty: NAME.sparsify.gguf beside the model
  std::optional<GateThresholds> thresholds;
  RunMode mode = RunMode::kFlash;
  std::string mode_note;       // why the mode is not what it usually is, for the user (streaming_choice.h)
  uint64_t ram_bytes = 0;      // budget of the whole process; 0: none (tests)
  uint32_t context = 0;        // 0: min(the model's, 2048), reduced so that it takes at most half of what a short one leaves
  DType kv_type = DType::kF16;
  std::optional<DType> resident_type;  // kQ8_0: attention and output matrices of a float model become that in RAM; lossy
  int num_threads = 2;
  uint32_t max_batch = 512;    // rows of a prefill step; reduced when the budget asks for it
  bool exact_batch = false;    // max_batch is wanted as it is (tests of batch invariance)
  uint32_t logit_rows = 1;     // rows of a step whose logits are wanted; up to max_batch (eval)

  // The switches of the paper's table.
  bool predictor = true;       // off: nothing is guessed: all neurons, or an exact gate's
  bool window = true;          // off: no neuron is kept from one token to the next
  bool bundling = true;        // off: up halves first, then down halves
  bool overlap = true;         // off: every read is waited for where it is asked for
  bool early = true;           // early prediction (needs overlap); where it pays: early_choice.h
  bool sketch_early = false;   // by a gate sketch too, which then guesses before attention: where it pays (early_choice.h)

  PolicyKind policy = PolicyKind::kDecay;
  std::optional<uint32_t> window_tokens;  // --window k: the paper's window; sets the policy
  std::optional<double> slots_share;      // of the FFN, 0..1; otherwise the budget decides
  std::optional<uint32_t> num_slots;      // exactly so many (tests of cache sizes)
  double popular_share = 0.0;             // of the slots, pinned for the most popular neurons
  float half_life_tokens = 16;
  // Gaps between bundles that are read over rather than split a read: what the device's profile says (device_profile.h).
  uint64_t max_gap_bytes = 0;

  VerifyMode verify = VerifyMode::kFirst;
  IoBackend io = IoBackend::kAuto;
  DirectMode direct = DirectMode::kTry;
  uint32_t sample_recall_every = 4;  // tokens; 0: never
  uint64_t seed = 0;                 // of the recall sample
  std::function<std::unique_ptr<ExtentReader>(std::unique_ptr<ExtentReader>)> decorate_reader;  // test seam
};

}  // namespace frugal
