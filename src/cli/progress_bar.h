// A bar on standard error for work that takes longer than a second; silent when standard error is no
// terminal.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace frugal {

class ProgressBar {
 public:
  explicit ProgressBar(std::string_view title);
  ~ProgressBar() { Finish(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // `share` in [0, 1]; drawn ten times a second at most.
  void Update(double share, std::string_view what);
  // A line that stays, terminal or not.
  void Note(std::string_view line);
  // Removes the bar.
  void Finish();

 private:
  const std::string title_;
  const bool terminal_;
  const uint64_t start_ns_;
  uint64_t drawn_ns_ = 0;
  bool visible_ = false;
};

// "packing [#####.....]  50% blk.3.attn_q.weight": what is drawn, without the control codes. `what` is cut to
// `columns`.
std::string FormatProgress(std::string_view title, double share, std::string_view what, size_t columns);

}  // namespace frugal
