// frugal check FILE: every hash, every NaN and infinity.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "src/base/bytes.h"
#include "src/cli/progress_bar.h"
#include "src/cli/verbs.h"
#include "src/pack/check.h"

namespace frugal {
namespace {

struct CheckFlags {
  std::string path;
  bool json = false;
};

const char* KindName(CheckedKind kind) {
  switch (kind) {
    case CheckedKind::kPackedModel:
      return "packed model";
    case CheckedKind::kPredictor:
      return "predictor file";
    case CheckedKind::kPlain:
      return "GGUF without hashes";
  }
  return "";
}

nlohmann::ordered_json ReportJson(const std::string& path, const CheckReport& report) {
  nlohmann::ordered_json json = {{"path", path},
                                 {"kind", KindName(report.kind)},
                                 {"file_bytes", report.file_bytes},
                                 {"tensors", report.num_tensors},
                                 {"hashes", report.num_hashes},
                                 {"content_hash", fmt::format("{:016x}", report.content_hash)},
                                 {"seconds", static_cast<double>(report.elapsed_ns) / 1e9},
                                 {"num_problems", report.num_problems}};
  json["problems"] = nlohmann::ordered_json::array();
  for (const CheckProblem& problem : report.problems) {
    json["problems"].push_back({{"tensor", problem.tensor},
                                {"row", problem.row},
                                {"offset_bytes", problem.offset_bytes},
                                {"message", problem.message}});
  }
  return json;
}

std::string ReportText(const std::string& path, const CheckReport& report) {
  std::string text;
  for (const CheckProblem& problem : report.problems) text += problem.message + "\n";
  if (report.num_problems > report.problems.size()) {
    text += fmt::format("... and {} more\n", report.num_problems - report.problems.size());
  }
  const double seconds = static_cast<double>(report.elapsed_ns) / 1e9;
  text += fmt::format(
      "{}: {}, {}, {} tensors, {} hashes, {:.1f} s: {}\n", path, KindName(report.kind),
      FormatSize(report.file_bytes), report.num_tensors, report.num_hashes, seconds,
      report.num_problems == 0 ? std::string("good") : fmt::format("{} problems", report.num_problems));
  return text;
}

Status CheckFile(const CheckFlags& flags) {
  ProgressBar bar("checking");
  const auto progress = [&bar](double share, std::string_view what) { bar.Update(share, what); };
  Result<CheckReport> report = CheckModel(flags.path, progress);
  bar.Finish();
  if (!report) return std::move(report).error();
  StandardOutput output;
  FRUGAL_TRY(output.Print(flags.json ? ReportJson(flags.path, *report).dump(2) + "\n"
                                     : ReportText(flags.path, *report)));
  if (report->num_problems == 0) return {};
  return BadModel("{}: {} problems", flags.path, report->num_problems);
}

}  // namespace

void AddCheckVerb(CLI::App& app, Exit& exit) {
  CLI::App& sub = *app.add_subcommand("check", "Reads a whole model file and finds damage, NaN and infinity");
  const auto flags = std::make_shared<CheckFlags>();
  AddModelArgument(sub, flags->path);
  sub.add_flag("--json", flags->json, "the report as JSON");
  exit.RunAsCallback(sub, [flags] { return CheckFile(*flags); });
}

}  // namespace frugal
