#include "src/base/memory_ledger.h"

namespace frugal {

void MemoryLedger::Add(std::string_view name, uint64_t size_bytes, std::string_view note) {
  for (LedgerLine& line : lines_) {
    if (line.name == name) {
      line.size_bytes += size_bytes;
      return;
    }
  }
  lines_.push_back({std::string(name), size_bytes, std::string(note)});
}

uint64_t MemoryLedger::total_bytes() const {
  uint64_t sum = 0;
  for (const LedgerLine& line : lines_) sum += line.size_bytes;
  return sum;
}

uint64_t MemoryLedger::line_bytes(std::string_view name) const {
  for (const LedgerLine& line : lines_) {
    if (line.name == name) return line.size_bytes;
  }
  return 0;
}

}  // namespace frugal
