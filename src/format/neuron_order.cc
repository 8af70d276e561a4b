#include "src/format/neuron_order.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/base/bytes.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

constexpr uint64_t kWindowBytes = 64 * kKiB;

// The bytes of a source one after the other.
class ByteCursor {
 public:
  explicit ByteCursor(ByteSource& source) : source_(source) {}

  bool at_end() const { return offset_bytes() == source_.size_bytes(); }
  uint64_t offset_bytes() const { return window_offset_bytes_ + at_; }
  // Not at the end.
  Result<char> Peek() {
    if (at_ == window_.size()) {
      window_offset_bytes_ += at_;
      window_.resize(std::min(kWindowBytes, source_.size_bytes() - window_offset_bytes_));
      at_ = 0;
      FRUGAL_TRY(source_.Read(window_offset_bytes_, std::as_writable_bytes(std::span(window_))));
    }
    return window_[at_];
  }
  void Skip() { ++at_; }

 private:
  ByteSource& source_;
  std::vector<char> window_;
  uint64_t window_offset_bytes_ = 0;
  size_t at_ = 0;
};

class OrderParser {
 public:
  OrderParser(ByteSource& source, uint32_t num_layers, uint32_t ffn_size)
      : name_(source.name()), bytes_(source), num_layers_(num_layers), ffn_size_(ffn_size) {}

  Result<NeuronOrders> Run() {
    NeuronOrders orders;
    while (!bytes_.at_end()) {
      if (orders.size() == num_layers_) {
        return BadModel("{}: offset {}: more than the {} lines of the model's layers", name_,
                        bytes_.offset_bytes(), num_layers_);
      }
      const uint32_t layer = static_cast<uint32_t>(orders.size());
      FRUGAL_TRY(ReadLine(layer, orders.emplace_back()));
    }
    if (orders.size() < num_layers_) {
      return BadModel("{}: layer {} is missing: the file has {} lines, the model {} layers", name_,
                      orders.size(), orders.size(), num_layers_);
    }
    return orders;
  }

 private:
  Status ReadLine(uint32_t layer, std::vector<uint32_t>& order) {
    order.reserve(ffn_size_);
    std::vector<uint32_t> position_of(ffn_size_, kNowhere);
    while (true) {
      FRUGAL_ASSIGN(const bool more, SkipSpaces());
      if (!more) break;
      const size_t position = order.size();
      if (position == ffn_size_) {
        return BadModel("{}: layer {}: position {}: the layer has {} neurons, expected the end of the line",
                        name_, layer, position, ffn_size_);
      }
      FRUGAL_ASSIGN(const uint32_t neuron, ReadNumber(layer, position));
      if (position_of[neuron] != kNowhere) {
        return BadModel("{}: layer {}: position {}: neuron {} was at position {} already", name_, layer,
                        position, neuron, position_of[neuron]);
      }
      position_of[neuron] = static_cast<uint32_t>(position);
      order.push_back(neuron);
    }
    if (order.size() == ffn_size_) return {};
    return BadModel("{}: layer {}: position {}: the line ends, expected {} neurons", name_, layer,
                    order.size(), ffn_size_);
  }

  // False at the end of the line, which is skipped too.
  Result<bool> SkipSpaces() {
    while (!bytes_.at_end()) {
      FRUGAL_ASSIGN(const char c, bytes_.Peek());
      if (c != ' ' && c != '\t' && c != '\r' && c != '\n') return true;
      bytes_.Skip();
      if (c == '\n') return false;
    }
    return false;
  }

  // Not at a space, nor at the end.
  Result<uint32_t> ReadNumber(uint32_t layer, size_t position) {
    uint64_t number = 0;
    while (!bytes_.at_end()) {
      FRUGAL_ASSIGN(const char c, bytes_.Peek());
      if (c == ' ' || c == '\t' || c == '\r' || c == '\n') break;
      if (c < '0' || c > '9') {
        return BadModel("{}: layer {}: position {}: '{}' at offset {}, expected a number below {}", name_,
                        layer, position, Printable(std::string_view(&c, 1)), bytes_.offset_bytes(),
                        ffn_size_);
      }
      number = number * 10 + static_cast<uint64_t>(c - '0');
      if (number >= ffn_size_) {
        return BadModel(
            "{}: layer {}: position {}: the number at offset {} is {} or more, expected one below {}", name_,
            layer, position, bytes_.offset_bytes(), number, ffn_size_);
      }
      bytes_.Skip();
    }
    return static_cast<uint32_t>(number);
  }

  static constexpr uint32_t kNowhere = UINT32_MAX;
  const std::string& name_;
  ByteCursor bytes_;
  const uint32_t num_layers_, ffn_size_;
};

}  // namespace

std::string WhyNoPermutation(std::span<const uint32_t> order) {
  std::vector<bool> seen(order.size());
  for (size_t position = 0; position < order.size(); ++position) {
    const uint32_t neuron = order[position];
    if (neuron >= order.size()) {
      return fmt::format("position {}: neuron {}, expected one below {}", position, neuron, order.size());
    }
    if (seen[neuron]) return fmt::format("position {}: neuron {} for the second time", position, neuron);
    seen[neuron] = true;
  }
  return "";
}

Status CheckNeuronOrders(const NeuronOrders& orders, uint32_t num_layers, uint32_t ffn_size) {
  if (orders.empty()) return {};
  if (orders.size() != num_layers) {
    return MakeError(ErrorCode::kUsage, "{} orders of neurons for {} layers", orders.size(), num_layers);
  }
  for (size_t layer = 0; layer < orders.size(); ++layer) {
    const std::vector<uint32_t>& order = orders[layer];
    const std::string problem = order.size() == ffn_size ? WhyNoPermutation(order) : fmt::format("{} neurons", order.size());
    if (problem.empty()) continue;
    return MakeError(ErrorCode::kUsage, "layer {}: the order of neurons is no permutation of {}: {}", layer, ffn_size, problem);
  }
  return {};
}

Result<NeuronOrders> ReadNeuronOrders(ByteSource& source, uint32_t num_layers, uint32_t ffn_size) {
  return OrderParser(source, num_layers, ffn_size).Run();
}

Result<NeuronOrders> ReadNeuronOrders(const std::string& path, uint32_t num_layers, uint32_t ffn_size) {
  FRUGAL_ASSIGN(const std::unique_ptr<ByteSource> source, OpenFileSource(path));
  return ReadNeuronOrders(*source, num_layers, ffn_size);
}

Status WriteNeuronOrders(const std::string& path, Overwrite overwrite, const NeuronOrders& orders) {
  FRUGAL_ASSIGN(const std::unique_ptr<OutputFile> file, OutputFile::Open(path, overwrite));
  uint64_t offset_bytes = 0;
  for (const std::vector<uint32_t>& order : orders) {
    const std::string line = fmt::format("{}\n", fmt::join(order, " "));
    FRUGAL_TRY(file->Write(offset_bytes, std::as_bytes(std::span(line)), "order of a layer"));
    offset_bytes += line.size();
  }
  return file->Commit();
}

}  // namespace frugal
