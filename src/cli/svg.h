// Pieces of self-contained SVG texts. Positions in pixels; `more` holds further attributes.
#pragma once

#include <string>
#include <string_view>

namespace frugal {

std::string SvgEscape(std::string_view text);
// The beginning, with a white ground; the end is "</svg>\n".
std::string SvgBegin(double width, double height, std::string_view title);
// `anchor`: start, middle, end.
std::string SvgText(double x, double y, std::string_view anchor, std::string_view more, std::string_view text);
std::string SvgLine(double x1, double y1, double x2, double y2, std::string_view more);
std::string SvgBox(double x, double y, double width, double height, std::string_view colour);

}  // namespace frugal
