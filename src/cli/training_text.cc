#include "src/cli/training_text.h"

#include <algorithm>

namespace frugal {
namespace {

// Every step-th passage is kept; when that becomes too much, every second one of these goes and the step
// doubles.
class Passages {
 public:
  Passages(const EncodeFunction& encode, const TrainingTextOptions& options)
      : encode_(encode), options_(options) {}

  Status Add(std::string& text) {
    if (text.find_first_not_of(" \t\r\n") != std::string::npos) {
      if (index_ % step_ == 0) {
        FRUGAL_ASSIGN(std::vector<int32_t> ids, encode_(text));
        num_tokens_ += ids.size();
        kept_.push_back({index_, std::move(ids)});
      }
      ++index_;
      if (num_tokens_ > options_.max_tokens && kept_.size() > 1) Thin();
    }
    text.clear();
    return {};
  }

  std::vector<std::vector<int32_t>> Sequences() const {
    std::vector<std::vector<int32_t>> sequences;
    for (const Passage& passage : kept_) {
      for (size_t at = 0; at < passage.ids.size(); at += options_.sequence_tokens) {
        const size_t end = std::min<size_t>(passage.ids.size(), at + options_.sequence_tokens);
        sequences.emplace_back(passage.ids.begin() + static_cast<std::ptrdiff_t>(at),
                               passage.ids.begin() + static_cast<std::ptrdiff_t>(end));
      }
    }
    return sequences;
  }

 private:
  struct Passage {
    uint64_t index;
    std::vector<int32_t> ids;
  };

  void Thin() {
    step_ *= 2;
    std::erase_if(kept_, [this](const Passage& passage) { return passage.index % step_ != 0; });
    num_tokens_ = 0;
    for (const Passage& passage : kept_) num_tokens_ += passage.ids.size();
  }

  const EncodeFunction& encode_;
  const TrainingTextOptions& options_;
  std::vector<Passage> kept_;
  uint64_t index_ = 0, step_ = 1, num_tokens_ = 0;
};

}  // namespace

Result<std::vector<std::vector<int32_t>>> ReadTrainingText(const std::string& path,
                                                           const EncodeFunction& encode,
                                                           const TrainingTextOptions& options) {
  FRUGAL_ASSIGN(TextStream stream, TextStream::Open(path));
  Passages passages(encode, options);
  std::string line, text;
  uint64_t line_number = 0, first_line = 1;
  const auto add = [&]() -> Status {
    Status status = passages.Add(text);
    if (!status) {
      return WithContext(std::move(status).error(), fmt::format("{}: lines from {}", path, first_line));
    }
    first_line = line_number + 1;
    return {};
  };
  while (true) {
    FRUGAL_ASSIGN(const bool more, stream.ReadLine(&line));
    if (!more) break;
    ++line_number;
    if (!options.separator.empty() && line == options.separator) {
      FRUGAL_TRY(add());
      continue;
    }
    text += line;
    text += '\n';
    if (text.size() >= options.passage_bytes) FRUGAL_TRY(add());
  }
  FRUGAL_TRY(add());
  std::vector<std::vector<int32_t>> sequences = passages.Sequences();
  if (sequences.empty()) return MakeError(ErrorCode::kUsage, "{}: there is no text in it", path);
  return sequences;
}

}  // namespace frugal
