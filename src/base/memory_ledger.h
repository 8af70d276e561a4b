// Every part of the memory budget is a line here; `frugal plan` prints it. The engine allocates only what a line
// promises. Bytes are what is charged without file cache.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace frugal {

struct LedgerLine {
  std::string name;
  uint64_t size_bytes = 0;
  std::string note;  // how it comes about, for people
};

class MemoryLedger {
 public:
  void Add(std::string_view name, uint64_t size_bytes, std::string_view note = "");
  uint64_t total_bytes() const;
  const std::vector<LedgerLine>& lines() const { return lines_; }
  // 0 when there is no such line.
  uint64_t line_bytes(std::string_view name) const;

 private:
  std::vector<LedgerLine> lines_;
};

}  // namespace frugal
