// The ablation as a picture, like figure 1 of the paper: a bar per row, computing below and stalls above, a mark where the bare loop is.
#include <fmt/format.h>

#include <algorithm>

#include "src/cli/ablation_report.h"
#include "src/cli/line_chart.h"
#include "src/cli/svg.h"

namespace frugal {
namespace {

constexpr double kWidth = 900, kHeight = 420, kLeft = 70, kRight = 20, kTop = 60, kBottom = 70;
constexpr const char* kComputeColour = "#3b6ea5";
constexpr const char* kStallColour = "#d9822b";

}  // namespace

std::string DrawAblation(std::span<const RowMeasurement> rows, const std::string& title) {
  double most = 1e-9;
  size_t count = 0;
  for (const RowMeasurement& row : rows) {
    if (!row.refusal.empty()) continue;
    most = std::max({most, row.compute_ms() + row.stall_ms(), row.bare_ms(0.5)});
    ++count;
  }
  const double bottom = kHeight - kBottom;
  const auto y = [&](double ms) { return bottom - ms / most * (bottom - kTop); };
  const auto mark = [](double x, double at, double width) {
    return SvgLine(x, at, x + width, at, "stroke=\"black\" stroke-width=\"3\"");
  };
  std::string svg = SvgBegin(kWidth, kHeight, title);
  svg += SvgText(kLeft, 22, "start", "", title);
  svg += SvgBox(kLeft, 32, 12, 12, kComputeColour) + SvgText(kLeft + 18, 43, "start", "", "computing");
  svg += SvgBox(kLeft + 110, 32, 12, 12, kStallColour) + SvgText(kLeft + 128, 43, "start", "", "waiting for flash");
  svg += mark(kLeft + 270, 38, 24) + SvgText(kLeft + 300, 43, "start", "", "bare loop: the same bytes and reads, nothing else");
  for (int tick = 0; tick <= 4; ++tick) {
    const double ms = most * tick / 4;
    svg += SvgLine(kLeft, y(ms), kWidth - kRight, y(ms), "stroke=\"#dddddd\"");
    svg += SvgText(kLeft - 6, y(ms) + 4, "end", "", fmt::format("{:.4g} ms", ms));
  }
  const double step = (kWidth - kLeft - kRight) / static_cast<double>(std::max<size_t>(1, count));
  const double width = step * 0.6;
  double x = kLeft + step * 0.2;
  for (const RowMeasurement& row : rows) {
    if (!row.refusal.empty()) continue;
    const double total = row.compute_ms() + row.stall_ms();
    svg += SvgBox(x, y(row.compute_ms()), width, bottom - y(row.compute_ms()), kComputeColour);
    svg += SvgBox(x, y(total), width, y(row.compute_ms()) - y(total), kStallColour);
    svg += mark(x - 4, y(row.bare_ms(0.5)), width + 8);
    svg += SvgText(x + width / 2, y(total) - 6, "middle", "", fmt::format("{:.4g}", total));
    svg += SvgText(x + width / 2, bottom + 20, "middle", "", row.name);
    x += step;
  }
  return svg + "</svg>\n";
}

std::string DrawSweep(std::span<const RowMeasurement> rows, const std::string& title) {
  LineChart chart;
  chart.title = title;
  chart.x_title = "memory budget";
  chart.x_unit = " GB";
  chart.y_title = "time of a token";
  chart.y_unit = " ms";
  chart.series = {{"frugal", {}}, {"bare loop", {}}};
  for (const RowMeasurement& row : rows) {
    if (!row.refusal.empty()) continue;
    const double gigabytes = static_cast<double>(row.ram_bytes) / 1e9;
    chart.series[0].points.emplace_back(gigabytes, row.total_ms(0.5));
    chart.series[1].points.emplace_back(gigabytes, row.bare_ms(0.5));
  }
  return LineChartSvg(chart);
}

}  // namespace frugal
