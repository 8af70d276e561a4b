#include "src/base/bytes.h"

#include <cctype>
#include <charconv>
#include <cmath>

namespace frugal {

std::optional<uint64_t> CheckedMultiply(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

std::optional<uint64_t> CheckedAdd(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

Result<uint64_t> ParseSize(std::string_view text) {
  const Error error = MakeError(ErrorCode::kUsage, "'{}' is not a size: expected a number with k, M, G or T, as in 7G", text);
  double number = 0;
  const char* end = text.data() + text.size();
  auto [rest, failure] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (failure != std::errc() || !std::isfinite(number) || number < 0) return error;
  std::string unit(rest, end);
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (unit.size() > 1 && unit.ends_with("ib")) {
    unit.resize(unit.size() - 2);
  } else if (unit.size() > 1 && unit.ends_with("b")) {
    unit.resize(unit.size() - 1);
  }
  double scale = 0;
  if (unit.empty() || unit == "b") scale = 1;
  if (unit == "k") scale = static_cast<double>(kKiB);
  if (unit == "m") scale = static_cast<double>(kMiB);
  if (unit == "g") scale = static_cast<double>(kGiB);
  if (unit == "t") scale = static_cast<double>(kGiB * kKiB);
  if (scale == 0) return error;
  const double bytes = std::floor(number * scale);
  if (bytes > static_cast<double>(uint64_t{1} << 60)) return error;
  return static_cast<uint64_t>(bytes);
}

std::string FormatSize(uint64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (bytes < kKiB) return fmt::format("{} B", bytes);
  if (bytes < kMiB) return fmt::format("{:.1f} KiB", value / static_cast<double>(kKiB));
  if (bytes < kGiB) return fmt::format("{:.1f} MiB", value / static_cast<double>(kMiB));
  return fmt::format("{:.2f} GiB", value / static_cast<double>(kGiB));
}

}  // namespace frugal
