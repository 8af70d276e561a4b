#include "src/engine/engine.h"

#include <sys/stat.h>

#include <algorithm>

#include "src/base/clock.h"
#include "src/engine/gate_sketch_load.h"
#include "src/engine/selector_choice.h"
#include "src/engine/tokenizer_load.h"

namespace frugal {

std::string DefaultPredictorPath(const std::string& model_path) {
  std::string stem = model_path;
  if (stem.ends_with(".gguf")) stem.resize(stem.size() - 5);
  return stem + ".predict.gguf";
}

static Result<GateThresholds> FindThresholds(const ModelFile& model, const EngineOptions& options) {
  FRUGAL_TRY(RequireSparsifiable(model));
  if (options.thresholds) return *options.thresholds;
  const std::string path = options.sparsify_path.empty() ? DefaultSparsifyPath(model.path()) : options.sparsify_path;
  struct stat status;
  if (options.sparsify_path.empty() && stat(path.c_str(), &status) != 0) {
    return MakeError(ErrorCode::kUsage, "{}: --sparsify: {} is not there: `frugal train {} --sparsify 0.5` makes it", model.path(), path,
                     model.path());
  }
  FRUGAL_ASSIGN(GateThresholds thresholds, ReadGateThresholds(path));
  FRUGAL_ASSIGN(const uint64_t content_hash, model.ReadContentHash());
  if (thresholds.model_content_hash != content_hash || thresholds.thresholds.size() != model.config().num_layers) {
    return BadModel("{}: its thresholds belong to another model, of content hash {:016x} and {} layers; {} has {:016x} and {}; "
                    "`frugal train --sparsify` makes new ones",
                    path, thresholds.model_content_hash, thresholds.thresholds.size(), model.path(), content_hash,
                    model.config().num_layers);
  }
  return thresholds;
}

// An exact gate, or no bundles: there is nothing to predict.
static bool UsesPredictors(const ModelFile& model) {
  return model.has_bundles() && model.config().ffn_layout != FfnLayout::kGateAndBundle2;
}

Result<OpenedHeader> OpenHeader(const EngineOptions& options) {
  OpenedHeader header;
  FRUGAL_ASSIGN(ModelFile model, ModelFile::Open(options.model_path, options.activation));
  header.model = std::make_unique<ModelFile>(std::move(model));
  const bool may_use = options.selector == SelectorKind::kAuto || options.selector == SelectorKind::kPredictor;
  const bool wants_predictor = options.mode == RunMode::kFlash && options.predictor && may_use && UsesPredictors(*header.model);
  const std::string path = options.predictor_path.empty() ? DefaultPredictorPath(options.model_path) : options.predictor_path;
  struct stat status;
  if (wants_predictor && (!options.predictor_path.empty() || stat(path.c_str(), &status) == 0)) {
    FRUGAL_ASSIGN(header.predictor, PredictorFile::Inspect(path, header.model->config()));
  }
  if (options.sparsify) {
    FRUGAL_ASSIGN(header.thresholds, FindThresholds(*header.model, options));
  }
  FRUGAL_ASSIGN(const TokenizerHeader tokenizer, ReadTokenizerHeader(*header.model, options.ram_bytes));
  header.tokenizer_bytes = tokenizer.bytes;
  header.model->set_end_ids(tokenizer.bos_id, tokenizer.eos_id);
  return header;
}

Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::Open(const EngineOptions& options) {
  std::unique_ptr<Engine> engine(new Engine());
  engine->options_ = options;
  FRUGAL_ASSIGN(OpenedHeader header, OpenHeader(options));
  engine->model_ = std::move(header.model);
  engine->thresholds_ = std::move(header.thresholds);
  const PredictorInfo* info = header.predictor ? &*header.predictor : nullptr;
  FRUGAL_ASSIGN(engine->plan_, MakePlan(*engine->model_, info, header.tokenizer_bytes, options));
  if (header.tokenizer_bytes.held > 0) {
    FRUGAL_ASSIGN(Tokenizer tokenizer, LoadTokenizer(*engine->model_));
    engine->tokenizer_.emplace(std::move(tokenizer));
  }
  FRUGAL_ASSIGN(engine->pool_, ThreadPool::Create(engine->plan_.num_threads));
  FRUGAL_ASSIGN(engine->weights_, Weights::Open(*engine->model_, engine->plan_.weights, engine->plan_.weights_options));
  if (info != nullptr) {
    FRUGAL_ASSIGN(PredictorFile predictors, PredictorFile::Open(info->path, engine->config(), engine->weights_->content_hash(),
                                                                engine->plan_.use_early));
    engine->predictors_.emplace(std::move(predictors));
  }
  FRUGAL_TRY(engine->OpenSelectors());
  const EnginePlan& plan = engine->plan_;
  // A sketch guesses early too, of what attention has not changed yet.
  Selector* const early = plan.use_early && !plan.use_predictor() ? engine->selector_.get() : engine->early_.get();
  engine->forward_ = std::make_unique<Forward>(*engine->weights_, *engine->selector_, early, *engine->pool_,
                                               plan.max_rows, plan.max_logit_rows, plan.context);
  if (engine->thresholds_) engine->forward_->set_gate_thresholds(engine->thresholds_->thresholds);
  engine->rows_.reserve(plan.max_rows);
  engine->ResetRecall();
  const ModelConfig& config = engine->config();
  if (config.activation.is_sparse() || plan.sparsified) engine->sparsity_.emplace(config.num_layers, config.ffn_size);
  return engine;
}

Status Engine::OpenSelectors() {
  const ModelConfig& config = model_->config();
  if (HasSketch(*model_, plan_.selector)) {
    FRUGAL_ASSIGN(selector_, LoadGateSketch(*weights_, *pool_, plan_));
    return {};
  }
  if (!plan_.use_predictor()) {
    selector_ = std::make_unique<AllSelector>(config.ffn_size);
    return {};
  }
  selector_ = std::make_unique<LowRankPredictor>(config.hidden_size, config.ffn_size, plan_.max_rows, pool_->num_threads(),
                                                 predictors_->factors(PredictorKind::kOnTime));
  if (plan_.use_early) {
    early_ = std::make_unique<LowRankPredictor>(config.hidden_size, config.ffn_size, Forward::kEarlyRows, pool_->num_threads(),
                                                predictors_->factors(PredictorKind::kEarly));
  }
  return PinPopular();
}

// The popular part: the neurons that the training text chose most often, of all layers together.
Status Engine::PinPopular() {
  if (options_.popular_share <= 0.0) return {};
  struct Neuron {
    float popularity;
    uint32_t layer, position;
  };
  std::vector<Neuron> neurons;
  for (uint32_t layer = 0; layer < config().num_layers; ++layer) {
    const std::span<const float> popularity = predictors_->popularity(layer);
    for (uint32_t i = 0; i < popularity.size(); ++i) neurons.push_back({popularity[i], layer, i});
  }
  const size_t count = std::min(neurons.size(), static_cast<size_t>(options_.popular_share * plan_.weights.cache.num_slots));
  std::partial_sort(neurons.begin(), neurons.begin() + static_cast<std::ptrdiff_t>(count), neurons.end(),
                    [](const Neuron& a, const Neuron& b) { return a.popularity > b.popularity; });
  for (uint32_t layer = 0; layer < config().num_layers; ++layer) {
    std::vector<uint32_t> positions;
    for (size_t i = 0; i < count; ++i) {
      if (neurons[i].layer == layer) positions.push_back(neurons[i].position);
    }
    std::sort(positions.begin(), positions.end());
    FRUGAL_ASSIGN([[maybe_unused]] const size_t pinned, weights_->PinPopular(layer, positions));
  }
  return {};
}

void Engine::ResetRecall() {
  recall_.reset();
  if (plan_.exact || plan_.sparsified || options_.sample_recall_every == 0) return;
  Result<RecallSampler> sampler = RecallSampler::Create(*weights_, options_.sample_recall_every, options_.seed);
  if (sampler) recall_.emplace(std::move(sampler).value());
}

Result<std::unique_ptr<Session>> Engine::NewSession() {
  auto session = std::make_unique<Session>();
  FRUGAL_ASSIGN(session->kv_, KvCache::Create(config(), config().num_layers, plan_.context, options_.kv_type));
  return session;
}

Status Engine::Step(Session& session, std::span<const int32_t> tokens, uint32_t num_logit_rows, const LayerObserver* observer) {
  CHECK(!tokens.empty() && tokens.size() <= plan_.max_rows);
  if (session.position_ + tokens.size() > session.max_context()) {
    return MakeError(ErrorCode::kUsage, "the context of {} tokens is full: {} and {} more do not fit", session.max_context(),
                     session.position_, tokens.size());
  }
  rows_.clear();
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<uint32_t>(tokens[i]) >= config().vocab_size) {
      return MakeError(ErrorCode::kUsage, "token id {} is outside the vocabulary of {}", tokens[i], config().vocab_size);
    }
    rows_.push_back({&session.kv_, tokens[i], session.position_ + static_cast<uint32_t>(i)});
  }
  const uint64_t start = NowNs();
  const bool sampled = observer == nullptr && recall_.has_value() && tokens.size() == 1;
  const bool measured = sparsity_.has_value() && !sparsity_->done();
  const auto observe = [&](const LayerObservation& observation) -> Status {
    if (measured) sparsity_->Observe(observation);
    if (trace_ != nullptr) {
      FRUGAL_TRY(trace_->NoteLayer(observation.layer, observation.active, observation.num_rows));
    }
    if (sampled) return recall_->Observe(observation);
    return observer != nullptr ? (*observer)(observation) : Status();
  };
  const LayerObserver observed(observe);
  const bool is_observed = sampled || measured || trace_ != nullptr || observer != nullptr;
  FRUGAL_TRY(forward_->Step(rows_, num_logit_rows, is_observed ? &observed : nullptr));
  if (sampled) recall_->NextStep();
  step_ns_ += NowNs() - start;
  ++num_steps_;
  num_rows_ += tokens.size();
  session.position_ += static_cast<uint32_t>(tokens.size());
  return {};
}

Status Engine::Prefill(Session& session, std::span<const int32_t> tokens) {
  while (!tokens.empty()) {
    const size_t count = std::min<size_t>(tokens.size(), plan_.max_rows);
    FRUGAL_TRY(Step(session, tokens.first(count), 1));
    tokens = tokens.subspan(count);
  }
  return {};
}

EngineStatistics Engine::statistics() const {
  EngineStatistics statistics;
  statistics.weights = weights_->statistics();
  statistics.times = forward_->times();
  statistics.num_steps = num_steps_;
  statistics.num_rows = num_rows_;
  statistics.step_ns = step_ns_;
  statistics.recall = recall_.has_value() ? recall_->recall() : -1.0;
  statistics.active_share = sparsity_.has_value() ? sparsity_->active_share() : -1.0;
  statistics.tiles_done.assign(pool_->tiles_done().begin(), pool_->tiles_done().end());
  return statistics;
}

std::string Engine::Describe() const {
  const std::span<const File> files = weights_->files();
  const auto buffered = std::find_if(files.begin(), files.end(), [](const File& file) { return !file.direct(); });
  std::string io = fmt::format("{}, {}", weights_->backend_name(), buffered == files.end() ? "O_DIRECT" : "buffered");
  const std::string direct_note = buffered == files.end() ? "" : buffered->direct_note();
  for (const std::string* note : {&direct_note, &weights_->reader_note()}) {
    if (!note->empty()) io += fmt::format(" ({})", *note);
  }
  std::string layout = "FFN in matrices";
  if (!model_->is_packed()) {
    layout = fmt::format("{}, weights not verified (no hashes)", model_->is_checkpoint() ? "checkpoint in place" : "ordinary GGUF");
  }
  if (model_->has_bundles()) layout = fmt::format("bundles of {} B", model_->bundles()[0].stride_bytes);
  if (model_->has_bundles() && !options_.bundling) layout += " read in halves";
  if (options_.activation) layout += fmt::format(", activation {}", ActivationName(*options_.activation));
  if (options_.resident_type) layout += fmt::format(", attention and output as {} in RAM (lossy)", DTypeName(*options_.resident_type));
  if (thresholds_) layout += fmt::format(", {:.0f}% of the neurons left out (lossy)", 100 * thresholds_->share);
  const std::string note = options_.mode_note.empty() ? "" : fmt::format(" ({})", options_.mode_note);
  return fmt::format("{} mode{}, {}, {}, {}, {} threads", RunModeName(options_.mode), note, DescribeSelector(*model_, options_, plan_), layout, io,
                     plan_.num_threads);
}

}  // namespace frugal
