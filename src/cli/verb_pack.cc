// frugal pack DIR -o model.gguf: a Hugging Face checkpoint becomes a packed model.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "src/cli/progress_bar.h"
#include "src/cli/verbs.h"
#include "src/pack/pack.h"

namespace frugal {
namespace {

struct PackFlags {
  std::string source_dir;
  std::string output_path;
  std::string type = "keep";
  bool force = false;
  std::string ram = "1G";
  uint32_t align_bytes = 512;
  bool json = false;
};

constexpr Choice<std::optional<DType>> kTypes[] = {
    {"keep", std::nullopt}, {"f32", DType::kF32}, {"f16", DType::kF16}, {"bf16", DType::kBF16},
    {"q8_0", DType::kQ8_0},  {"q4_0", DType::kQ4_0}};

nlohmann::ordered_json ReportJson(const std::string& path, const PackReport& report) {
  return {{"path", path},
          {"file_bytes", report.file_bytes},
          {"source_bytes_read", report.source_bytes_read},
          {"parameters", report.num_parameters},
          {"tensors", report.num_tensors},
          {"bundle_stride_bytes", report.stride_bytes},
          {"up_type", DTypeName(report.up_type)},
          {"down_type", DTypeName(report.down_type)},
          {"largest_weight_difference", report.largest_difference},
          {"content_hash", fmt::format("{:016x}", report.content_hash)},
          {"has_tokenizer", report.has_tokenizer},
          {"seconds", static_cast<double>(report.elapsed_ns) / 1e9},
          {"warnings", report.warnings}};
}

std::string ReportText(const std::string& path, const PackReport& report) {
  const double seconds = static_cast<double>(report.elapsed_ns) / 1e9;
  std::string text =
      fmt::format("{}: {}, {:.1f} M parameters of {} tensors, {}\n", path, FormatSize(report.file_bytes),
                  static_cast<double>(report.num_parameters) / 1e6, report.num_tensors,
                  report.has_tokenizer ? "with its tokenizer" : "without a tokenizer (run it with --ids)");
  text += fmt::format("bundles of {} B (up {}, down {}), content hash {:016x}\n", report.stride_bytes,
                      DTypeName(report.up_type), DTypeName(report.down_type), report.content_hash);
  if (report.largest_difference > 0) {
    text += fmt::format("largest weight difference from the source: {:.6g}\n", report.largest_difference);
  }
  text += fmt::format("{} read in {:.1f} s ({:.2f} GB/s)\n", FormatSize(report.source_bytes_read), seconds,
                      seconds > 0 ? static_cast<double>(report.source_bytes_read) / seconds / 1e9 : 0.0);
  return text;
}

Status PackModel(const PackFlags& flags) {
  PackOptions options;
  options.source_dir = flags.source_dir;
  options.output_path = flags.output_path;
  FRUGAL_ASSIGN(options.type, ParseChoice("--type", flags.type, kTypes));
  options.overwrite = flags.force ? Overwrite::kYes : Overwrite::kNo;
  if (flags.align_bytes != 512 && flags.align_bytes != 4096) {
    return MakeError(ErrorCode::kUsage, "--align: {} is neither 512 nor 4096", flags.align_bytes);
  }
  options.align_bytes = flags.align_bytes;
  FRUGAL_ASSIGN(options.ram_bytes, ParseSizeFlag("--ram", flags.ram));
  FRUGAL_TRY(CheckOverwrite(flags.output_path, flags.force));
  // Pack notices the flag and takes its temporary file away.
  InstallInterruptHandler();
  options.cancel = &interrupted();

  ProgressBar bar("packing");
  const auto progress = [&bar](double share, std::string_view what) { bar.Update(share, what); };
  Result<PackReport> report = Pack(options, progress);
  bar.Finish();
  if (!report) return std::move(report).error();
  for (const std::string& warning : report->warnings) fmt::print(stderr, "warning: {}\n", warning);
  StandardOutput output;
  return output.Print(flags.json ? ReportJson(flags.output_path, *report).dump(2) + "\n"
                                 : ReportText(flags.output_path, *report));
}

}  // namespace

void AddPackVerb(CLI::App& app, Exit& exit) {
  CLI::App& sub = *app.add_subcommand("pack", "Turns a Hugging Face checkpoint into a packed model");
  const auto flags = std::make_shared<PackFlags>();
  sub.add_option("dir,--dir", flags->source_dir, "directory with config.json, safetensors and tokenizer")
      ->required();
  sub.add_option("-o,--output", flags->output_path, "the packed model to write (.gguf)")->required();
  sub.add_option("--type", flags->type, "of matrices and bundles: keep (the source's), f32, f16, bf16, q8_0, q4_0 (lossy)")
      ->capture_default_str();
  sub.add_flag("--force", flags->force, "overwrite an existing file");
  sub.add_option("--ram", flags->ram, "memory budget of the whole process")->capture_default_str();
  sub.add_option("--align", flags->align_bytes, "of a bundle in bytes: 512, 4096")->capture_default_str();
  sub.add_flag("--json", flags->json, "the report as JSON");
  exit.RunAsCallback(sub, [flags] { return PackModel(*flags); });
}

}  // namespace frugal
