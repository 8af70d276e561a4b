#include "src/cli/progress_bar.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "src/base/clock.h"
#include "src/cli/common.h"

namespace frugal {
namespace {

constexpr uint64_t kDelayNs = 1'000'000'000;
constexpr uint64_t kIntervalNs = 100'000'000;
constexpr size_t kBarColumns = 24;

size_t TerminalColumns() {
  winsize size = {};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

std::string FormatProgress(std::string_view title, double share, std::string_view what, size_t columns) {
  share = std::clamp(share, 0.0, 1.0);
  const size_t filled = static_cast<size_t>(share * kBarColumns);
  const std::string line = fmt::format("{} [{}{}] {:3.0f}% {}", title, std::string(filled, '#'),
                                       std::string(kBarColumns - filled, '.'), 100 * share, what);
  return line.substr(0, columns);
}

ProgressBar::ProgressBar(std::string_view title)
    : title_(title), terminal_(StandardErrorIsTerminal()), start_ns_(NowNs()) {}

void ProgressBar::Update(double share, std::string_view what) {
  if (!terminal_) return;
  const uint64_t now_ns = NowNs();
  if (now_ns - start_ns_ < kDelayNs || now_ns - drawn_ns_ < kIntervalNs) return;
  drawn_ns_ = now_ns;
  visible_ = true;
  // One column is left free: a terminal that wraps would leave the line behind.
  fmt::print(stderr, "\r\033[K{}", FormatProgress(title_, share, what, TerminalColumns() - 1));
  std::fflush(stderr);
}

void ProgressBar::Note(std::string_view line) {
  Finish();
  fmt::print(stderr, "{}\n", line);
}

void ProgressBar::Finish() {
  if (visible_) fmt::print(stderr, "\r\033[K");
  visible_ = false;
}

}  // namespace frugal
