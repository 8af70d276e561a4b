// The ablation as a picture, like figure 1 of the paper: a bar per row, computing below and stalls above, a mark where the bare loop is.
#include <fmt/format.h>

#include <algorithm>

#include "src/cli/ablation.h"

namespace frugal {
namespace {

constexpr double kWidth = 900, kHeight = 420, kLeft = 70, kRight = 20, kTop = 60, kBottom = 70;
constexpr const char* kComputeColour = "#3b6ea5";
constexpr const char* kStallColour = "#d9822b";

std::string Escape(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '<') {
      escaped += "&lt;";
    } else if (c == '&') {
      escaped += "&amp;";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string Bar(double x, double width, double top, double bottom, const char* colour) {
  return fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\"/>\n", x, top, width,
                     std::max(0.0, bottom - top), colour);
}

std::string Text(double x, double y, const char* anchor, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor, Escape(text));
}

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
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"sans-serif\" font-size=\"13\">\n"
      "<rect width=\"{0:.0f}\" height=\"{1:.0f}\" fill=\"white\"/>\n",
      kWidth, kHeight);
  svg += Text(kLeft, 22, "start", title);
  svg += Bar(kLeft, 12, 32, 44, kComputeColour) + Text(kLeft + 18, 43, "start", "computing");
  svg += Bar(kLeft + 110, 12, 32, 44, kStallColour) + Text(kLeft + 128, 43, "start", "waiting for flash");
  svg += fmt::format("<path d=\"M{:.1f} 38h24\" stroke=\"black\" stroke-width=\"3\"/>\n", kLeft + 270);
  svg += Text(kLeft + 300, 43, "start", "bare loop: the same bytes and reads, nothing else");
  for (int tick = 0; tick <= 4; ++tick) {
    const double ms = most * tick / 4;
    svg += fmt::format("<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"#dddddd\"/>\n", kLeft, y(ms), kWidth - kRight);
    svg += Text(kLeft - 6, y(ms) + 4, "end", fmt::format("{:.4g} ms", ms));
  }
  const double step = (kWidth - kLeft - kRight) / static_cast<double>(std::max<size_t>(1, count));
  double x = kLeft + step * 0.2;
  for (const RowMeasurement& row : rows) {
    if (!row.refusal.empty()) continue;
    const double width = step * 0.6;
    const double total = row.compute_ms() + row.stall_ms();
    svg += Bar(x, width, y(row.compute_ms()), bottom, kComputeColour);
    svg += Bar(x, width, y(total), y(row.compute_ms()), kStallColour);
    svg += fmt::format("<path d=\"M{:.1f} {:.1f}h{:.1f}\" stroke=\"black\" stroke-width=\"3\"/>\n", x - 4, y(row.bare_ms(0.5)), width + 8);
    svg += Text(x + width / 2, y(total) - 6, "middle", fmt::format("{:.4g}", total));
    svg += Text(x + width / 2, bottom + 20, "middle", row.name);
    x += step;
  }
  return svg + "</svg>\n";
}

}  // namespace frugal
