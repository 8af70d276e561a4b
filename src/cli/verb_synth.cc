// frugal synth --shape NAME -o model.gguf: a model of that shape with random weights, whose activity is the
// paper's, measured on the file before the verb says that it is.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "src/base/bytes.h"
#include "src/cli/activity.h"
#include "src/cli/progress_bar.h"
#include "src/cli/synthesis.h"
#include "src/cli/system_limits.h"
#include "src/cli/verbs.h"
#include "src/pack/synthetic_shape.h"

namespace frugal {
namespace {

struct SynthFlags {
  std::string shape = "opt-6.7b";
  std::string output_path;
  std::string type = "f16";
  uint32_t num_layers = 0;
  uint64_t seed = 1;
  std::string ram = "1G";
  int num_threads = 0;
  uint32_t measure_tokens = 256;
  bool force = false, plan_only = false, holes = false, json = false;
};

constexpr Choice<DType> kTypes[] = {{"f32", DType::kF32}, {"f16", DType::kF16}, {"bf16", DType::kBF16},
                                    {"q8_0", DType::kQ8_0}, {"q4_0", DType::kQ4_0}};

nlohmann::ordered_json ReportJson(const SyntheticOptions& options, const SyntheticReport& report,
                                  std::span<const LayerActivity> layers,
                                  std::span<const WantedFigure> figures) {
  nlohmann::ordered_json json = {{"path", options.output_path},
                                 {"file_bytes", report.file_bytes},
                                 {"parameters", report.num_parameters},
                                 {"bundle_stride_bytes", report.stride_bytes},
                                 {"content_hash", fmt::format("{:016x}", report.content_hash)},
                                 {"seconds", static_cast<double>(report.elapsed_ns) / 1e9}};
  for (const WantedFigure& figure : figures) {
    json["figures"].push_back(
        {{"name", figure.name}, {"wanted", figure.wanted}, {"measured", figure.measured}});
  }
  const LayerActivity mean = MeanActivity(layers);
  json["aggregated_shares"] = std::vector<double>(mean.aggregated.begin() + 1, mean.aggregated.end());
  for (const LayerActivity& layer : layers) {
    json["layers"].push_back({{"active_share", layer.active_share},
                              {"predicted_share", layer.predicted_share},
                              {"recall", layer.recall}});
  }
  return json;
}

std::string ReportText(const SyntheticOptions& options, const SyntheticReport& report,
                       std::span<const LayerActivity> layers, std::span<const WantedFigure> figures) {
  const double seconds = static_cast<double>(report.elapsed_ns) / 1e9;
  std::string text =
      fmt::format("{}: {}, {:.1f} M parameters, bundles of {} B, content hash {:016x}\n", options.output_path,
                  FormatSize(report.file_bytes), static_cast<double>(report.num_parameters) / 1e6,
                  report.stride_bytes, report.content_hash);
  text += fmt::format("written in {:.1f} s ({:.2f} GB/s)\n\n", seconds,
                      static_cast<double>(report.file_bytes) / seconds / 1e9);
  text += FormatFigures(figures);
  const LayerActivity mean = MeanActivity(layers);
  text += "\n| window of k tokens | share of the FFN held | loaded a token |\n|---|---|---|\n";
  for (size_t k = 1; k < LayerActivity::kMaxWindow; ++k) {
    text += fmt::format("| {} | {:.2f}% | {:.2f}% |\n", k, 100 * mean.aggregated[k],
                        100 * (mean.aggregated[k + 1] - mean.aggregated[k]));
  }
  return text;
}

Status Synthesise(const SynthFlags& flags) {
  SyntheticOptions options;
  FRUGAL_ASSIGN(options.type, ParseChoice("--type", flags.type, kTypes));
  FRUGAL_ASSIGN(const SyntheticShape shape, FindSyntheticShape(flags.shape));
  options.config = SyntheticConfig(shape, flags.num_layers);
  options.activity = shape.activity;
  FRUGAL_ASSIGN(const uint64_t ram_bytes, ParseSizeFlag("--ram", flags.ram));
  options.name = flags.shape + "-synthetic";
  options.output_path = flags.output_path;
  options.seed = flags.seed;
  options.holes = flags.holes;
  options.overwrite = flags.force ? Overwrite::kYes : Overwrite::kNo;
  const SynthesisPaths paths = SynthesisPathsOf(flags.output_path);
  for (const std::string& path : {paths.model, paths.predictor, paths.tokens}) {
    FRUGAL_TRY(CheckOverwrite(path, flags.force));
  }
  InstallInterruptHandler();
  options.cancel = &interrupted();
  const int num_threads =
      flags.num_threads > 0 ? flags.num_threads : std::min(UsableCores(), ThreadPool::kMaxThreads);
  FRUGAL_ASSIGN(std::unique_ptr<ThreadPool> pool, ThreadPool::Create(num_threads));
  FRUGAL_ASSIGN(std::unique_ptr<SyntheticModel> model, SyntheticModel::Create(options, *pool));
  StandardOutput output;
  if (flags.plan_only) {
    return output.Print(fmt::format("{}: about {} bytes ({}), and its predictors\n", flags.output_path,
                                    model->DataBytes(), FormatSize(model->DataBytes())));
  }
  ProgressBar bar("writing");
  const auto progress = [&bar](double share, std::string_view what) { bar.Update(share, what); };
  FRUGAL_ASSIGN(const SyntheticReport report, WriteSynthesis(options, *model, *pool, progress));
  bar.Finish();
  if (flags.holes) {
    return output.Print(fmt::format("{}: {} with holes instead of weights: for `frugal plan` and `frugal inspect`; its predictors are whole\n",
                                    flags.output_path, FormatSize(report.file_bytes)));
  }

  const std::vector<int32_t> tokens = model->tokens();
  model.reset();  // the memory is the engine's now
  pool.reset();
  ProgressBar measuring("measuring");
  const ActivityOptions activity = {flags.output_path, flags.measure_tokens, ram_bytes, num_threads};
  FRUGAL_ASSIGN(const std::vector<LayerActivity> layers, MeasureActivity(activity, tokens, [&](double share) {
                  measuring.Update(share, "activity");
                }));
  measuring.Finish();
  const std::vector<WantedFigure> figures = CompareActivity(layers, options.activity);
  FRUGAL_TRY(output.Print(flags.json ? ReportJson(options, report, layers, figures).dump(2) + "\n"
                                     : ReportText(options, report, layers, figures)));
  for (const WantedFigure& figure : figures) {
    if (figure.holds()) continue;
    return MakeError(ErrorCode::kFailed, "{}: {}: {:.2f}%, more than a tenth from {:.2f}%", flags.output_path,
                     figure.name, 100 * figure.measured, 100 * figure.wanted);
  }
  return {};
}

}  // namespace

void AddSynthVerb(CLI::App& app, Exit& exit) {
  CLI::App& sub = *app.add_subcommand(
      "synth", "Writes a model of a given shape with random weights whose activity is that of a trained one");
  const auto flags = std::make_shared<SynthFlags>();
  std::string names;
  for (const SyntheticShape& shape : SyntheticShapes()) {
    names += (names.empty() ? "" : ", ") + std::string(shape.name);
  }
  sub.add_option("--shape", flags->shape, names)->capture_default_str();
  sub.add_option(
         "-o,--output", flags->output_path,
         "the packed model to write (NAME.gguf); NAME.predict.gguf and NAME.tokens.txt come beside it")
      ->required();
  sub.add_option("--type", flags->type, "of matrices and bundles: f32, f16, bf16, q8_0, q4_0")->capture_default_str();
  sub.add_option("--layers", flags->num_layers, "fewer or more layers than the shape has")
      ->check(CLI::Range(1, 1024));
  sub.add_option("--seed", flags->seed, "of the weights and of the text")->capture_default_str();
  sub.add_option("--ram", flags->ram, "memory budget of the whole process")->capture_default_str();
  sub.add_option("-t,--threads", flags->num_threads, "threads (default: usable cores)")
      ->check(CLI::Range(1, ThreadPool::kMaxThreads));
  sub.add_option("--measure-tokens", flags->measure_tokens, "tokens on which the activity is measured")
      ->check(CLI::Range(32, 1024))
      ->capture_default_str();
  sub.add_flag("--force", flags->force, "overwrite existing files");
  sub.add_flag("--plan-only", flags->plan_only, "print the size of the file and end");
  sub.add_flag("--holes", flags->holes,
               "leave holes that take no disk instead of weights: to plan a shape that the disk is too small for; measures nothing");
  sub.add_flag("--json", flags->json, "the report as JSON");
  exit.RunAsCallback(sub, [flags] { return Synthesise(*flags); });
}

}  // namespace frugal
