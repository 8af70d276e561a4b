// Which rows the ablation has, and with which options.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "src/cli/ablation.h"
#include "src/engine/plan.h"

namespace frugal {
namespace {

// What the first row of flash mode switches on: its key and its name.
std::pair<const char*, const char*> SelectorRow(const TableParts& parts) {
  if (parts.sparsified) return {"thresholds", "+ thresholds"};
  switch (parts.selector) {
    case SelectorKind::kSketch:
      return {"sketch", "+ gate sketch"};
    case SelectorKind::kGate:
      return {"gate", "+ gate"};
    default:
      return {"predictor", "+ predictor"};
  }
}

}  // namespace

Result<TableParts> FindTableParts(const EngineOptions& base) {
  FRUGAL_ASSIGN(const OpenedHeader header, OpenHeader(base));
  TableParts parts;
  parts.has_bundles = header.model->has_bundles();
  if (!parts.has_bundles) return parts;
  const PredictorInfo* const predictor = header.predictor ? &*header.predictor : nullptr;
  FRUGAL_ASSIGN(const EnginePlan plan, MakePlan(*header.model, predictor, header.tokenizer_bytes, base));
  parts.sparsified = plan.sparsified;
  const bool selects = plan.sparsified || header.model->config().activation.is_sparse();
  parts.selector = selects ? plan.selector : SelectorKind::kAll;
  parts.early = plan.use_predictor() && predictor->early_bytes > 0 && !header.model->config().parallel();
  return parts;
}

std::vector<AblationRow> AblationRows(const EngineOptions& base, const TableParts& parts) {
  std::vector<AblationRow> rows;
  EngineOptions options = base;
  options.logit_rows = 1;
  options.sample_recall_every = 1;
  options.overlap = true;
  options.sparsify = false;  // they compute with all neurons
  options.mode = RunMode::kNaive;
  rows.push_back({"naive", "naive", options});
  options.mode = RunMode::kHybrid;
  rows.push_back({"hybrid", "hybrid", options});
  if (parts.selector == SelectorKind::kAll) return rows;
  options.sparsify = base.sparsify;
  options.mode = RunMode::kFlash;
  options.predictor = true;
  options.window = options.bundling = options.overlap = options.early = false;
  const std::optional<uint32_t> window_tokens = options.window_tokens;
  options.window_tokens.reset();
  const auto [key, name] = SelectorRow(parts);
  rows.push_back({key, name, options});
  options.window = true;
  options.window_tokens = window_tokens;
  rows.push_back({"window", "+ window", options});
  options.bundling = true;
  rows.push_back({"bundling", "+ bundling", options});
  options.overlap = true;
  rows.push_back({"overlap", "+ overlap", options});
  if (!parts.early) return rows;
  options.early = true;
  rows.push_back({std::string(kEarlyKey), "+ early prediction", options});
  return rows;
}

std::vector<AblationRow> SweepRows(const EngineOptions& base, const TableParts& parts, std::span<const double> shares,
                                   uint64_t file_bytes) {
  const AblationRow all = AblationRows(base, parts).back();
  std::vector<AblationRow> rows;
  for (const double share : shares) {
    AblationRow row = all;
    row.key = row.name = fmt::format("{:g}%", 100 * share);
    row.options.ram_bytes = static_cast<uint64_t>(share * static_cast<double>(file_bytes));
    rows.push_back(std::move(row));
  }
  return rows;
}

AblationRow LayoutRow(const EngineOptions& base, const TableParts& parts, const std::string& layout_path) {
  AblationRow row = AblationRows(base, parts).back();
  row.key = "layout";
  row.name = "+ layout";
  row.options.model_path = layout_path;
  row.options.predictor_path.clear();
  row.options.sparsify_path.clear();
  return row;
}

Result<std::vector<AblationRow>> SelectRows(const std::string& keys, const std::vector<AblationRow>& all, bool early_pays) {
  if (keys.empty()) return all;
  std::vector<AblationRow> selected;
  for (size_t begin = 0; begin <= keys.size();) {
    const size_t end = std::min(keys.find(',', begin), keys.size());
    const std::string key = keys.substr(begin, end - begin);
    begin = end + 1;
    auto found = std::find_if(all.begin(), all.end(), [&key](const AblationRow& row) { return row.key == key; });
    if (key == "flash") {
      const auto last = std::find_if(all.rbegin(), all.rend(), [early_pays](const AblationRow& row) {
        return row.options.mode == RunMode::kFlash && row.key != "layout" && (early_pays || row.key != kEarlyKey);
      });
      found = last == all.rend() ? all.end() : last.base() - 1;
    }
    if (found == all.end()) {
      std::vector<std::string> known;
      for (const AblationRow& row : all) known.push_back(row.key);
      return MakeError(ErrorCode::kUsage, "--rows: '{}': this model has {}{}, by commas", key, fmt::join(known, ", "),
                       all.back().options.mode == RunMode::kFlash ? ", or flash for the last that selects" : ": it has no selector");
    }
    selected.push_back(*found);
  }
  return selected;
}

Status CheckSameShape(const ModelFile& model, const ModelFile& layout) {
  const auto check = [&](const char* what, const auto& expected, const auto& found) -> Status {
    if (expected == found) return {};
    return MakeError(ErrorCode::kUsage,
                     "--layout: {}: its {} is {}, that of {} is {}: it is no other order of the same model",
                     layout.path(), what, found, model.path(), expected);
  };
  const ModelConfig &a = model.config(), &b = layout.config();
  FRUGAL_TRY(check("num_layers", a.num_layers, b.num_layers));
  FRUGAL_TRY(check("hidden_size", a.hidden_size, b.hidden_size));
  FRUGAL_TRY(check("ffn_size", a.ffn_size, b.ffn_size));
  FRUGAL_TRY(check("embedding_size", a.embedding_size, b.embedding_size));
  FRUGAL_TRY(check("num_heads", a.num_heads, b.num_heads));
  FRUGAL_TRY(check("vocab_size", a.vocab_size, b.vocab_size));
  FRUGAL_TRY(check("max_context", a.max_context, b.max_context));
  for (uint32_t layer = 0; layer < a.num_layers; ++layer) {
    const BundleInfo &bundle = model.bundles()[layer], &other = layout.bundles()[layer];
    FRUGAL_TRY(check("stride of a bundle", bundle.stride_bytes, other.stride_bytes));
    FRUGAL_TRY(check("type of up rows", DTypeName(bundle.up_type), DTypeName(other.up_type)));
    FRUGAL_TRY(check("type of down rows", DTypeName(bundle.down_type), DTypeName(other.down_type)));
  }
  return {};
}

}  // namespace frugal
