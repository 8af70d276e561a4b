#include "src/cli/line_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "src/cli/svg.h"

namespace frugal {
namespace {

// Pixels.
constexpr double kWidth = 820, kHeight = 480;
constexpr double kLeft = 80, kRight = 610, kTop = 60, kBottom = 410;
constexpr int kTicks = 6;
// Okabe and Ito's colours, which people tell apart whatever their eyes.
constexpr std::array<std::string_view, 7> kColours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                      "#e69f00", "#56b4e9", "#000000"};
constexpr std::array<std::string_view, 4> kDashes = {"none", "7 3", "2 3", "10 3 2 3"};

// 1, 2 or 5 times a power of ten, so that kTicks of them reach `largest`.
double TickStep(double largest) {
  if (!(largest > 0)) return 1;
  const double rough = largest / kTicks;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) return factor * power;
  }
  return 10 * power;
}

struct Axis {
  double step = 1, end = 1;  // the axis goes from 0 to `end`
};

Axis MakeAxis(double largest) {
  Axis axis;
  axis.step = TickStep(largest);
  axis.end = axis.step * std::max(1.0, std::ceil(largest / axis.step));
  return axis;
}

class Drawing {
 public:
  explicit Drawing(const LineChart& chart) : chart_(chart) {
    double largest_x = 0, largest_y = 0;
    for (const ChartSeries& series : chart.series) {
      for (const auto& [x, y] : series.points) {
        if (!std::isfinite(x) || !std::isfinite(y)) continue;
        largest_x = std::max(largest_x, x);
        largest_y = std::max(largest_y, y);
      }
    }
    x_ = MakeAxis(largest_x);
    y_ = MakeAxis(largest_y);
  }

  std::string Draw() {
    text_ = SvgBegin(kWidth, kHeight, chart_.title);
    text_ += SvgText(kWidth / 2, 30, "middle", "font-size=\"17\" font-weight=\"bold\"", chart_.title);
    DrawAxes();
    for (size_t i = 0; i < chart_.series.size(); ++i) DrawSeries(i);
    return text_ + "</svg>\n";
  }

 private:
  double X(double x) const { return kLeft + x / x_.end * (kRight - kLeft); }
  double Y(double y) const { return kBottom - y / y_.end * (kBottom - kTop); }

  void DrawAxes() {
    for (int i = 0; i * x_.step <= x_.end * 1.0001; ++i) {
      const double value = i * x_.step;
      text_ += SvgLine(X(value), kTop, X(value), kBottom, "stroke=\"#dddddd\"");
      text_ += SvgText(X(value), kBottom + 20, "middle", "", fmt::format("{:g}{}", value, chart_.x_unit));
    }
    for (int i = 0; i * y_.step <= y_.end * 1.0001; ++i) {
      const double value = i * y_.step;
      text_ += SvgLine(kLeft, Y(value), kRight, Y(value), "stroke=\"#dddddd\"");
      text_ += SvgText(kLeft - 8, Y(value) + 4, "end", "", fmt::format("{:g}{}", value, chart_.y_unit));
    }
    text_ += SvgLine(kLeft, kBottom, kRight, kBottom, "stroke=\"black\"");
    text_ += SvgLine(kLeft, kTop, kLeft, kBottom, "stroke=\"black\"");
    text_ += SvgText((kLeft + kRight) / 2, kBottom + 46, "middle", "", chart_.x_title);
    const double middle = (kTop + kBottom) / 2;
    text_ += SvgText(22, middle, "middle", fmt::format("transform=\"rotate(-90 22 {:.1f})\"", middle),
                  chart_.y_title);
  }

  void DrawSeries(size_t index) {
    const ChartSeries& series = chart_.series[index];
    const std::string_view colour = kColours[index % kColours.size()];
    const std::string stroke =
        fmt::format("stroke=\"{}\" stroke-width=\"2\" stroke-dasharray=\"{}\" fill=\"none\"", colour,
                    kDashes[index % kDashes.size()]);
    std::string line, dots;
    for (const auto& [x, y] : series.points) {
      if (!std::isfinite(x) || !std::isfinite(y)) continue;
      line += fmt::format("{}{:.1f},{:.1f}", line.empty() ? "" : " ", X(x), Y(y));
      dots += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", X(x), Y(y), colour);
    }
    text_ += fmt::format("<polyline points=\"{}\" {}/>\n", line, stroke) + dots;
    const double y = kTop + 12 + 22 * static_cast<double>(index);
    text_ += SvgLine(kRight + 16, y, kRight + 46, y, stroke);
    text_ += SvgText(kRight + 54, y + 4, "start", "", series.name);
  }

  const LineChart& chart_;
  Axis x_, y_;
  std::string text_;
};

}  // namespace

std::string LineChartSvg(const LineChart& chart) { return Drawing(chart).Draw(); }

}  // namespace frugal
