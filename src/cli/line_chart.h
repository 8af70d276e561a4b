// Line charts as self-contained SVG texts.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace frugal {

struct ChartSeries {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x ascending
};

struct LineChart {
  std::string title, x_title, y_title;
  std::string x_unit, y_unit;  // behind the numbers of the axes, such as "%"
  std::vector<ChartSeries> series;
};

// Both axes begin at 0. Numbers that are not finite are left out.
std::string LineChartSvg(const LineChart& chart);

}  // namespace frugal
