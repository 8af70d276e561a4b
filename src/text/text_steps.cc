#include "src/text/text_steps.h"

#include <utility>

#include "src/text/byte_alphabet.h"
#include "src/text/unicode.h"
#include "src/text/utf8.h"

namespace frugal {
namespace {

std::string Stripped(std::string_view text, const StripStep& step) {
  size_t begin = 0, end = text.size();
  while (step.left && begin < end) {
    const Utf8Step first = NextUtf8(text.substr(begin));
    if (!IsWhiteSpace(first.code_point)) break;
    begin += first.size_bytes;
  }
  while (step.right && end > begin) {
    size_t last = end - 1;
    while (last > begin && (static_cast<unsigned char>(text[last]) & 0xC0) == 0x80) --last;
    if (!IsWhiteSpace(NextUtf8(text.substr(last)).code_point)) break;
    end = last;
  }
  return std::string(text.substr(begin, end - begin));
}

// Joins the parts of a text as `behavior` says and gives them out. The rules are those of `tokenizers`
// (NormalizedString::split), which folds over the parts from the left, for kMergedWithNext from the right.
class PieceJoiner {
 public:
  PieceJoiner(SplitBehavior behavior, FunctionRef<Status(size_t, size_t)> piece)
      : behavior_(behavior), piece_(piece) {}

  Status Add(size_t begin, size_t end, bool is_match) {
    if (has_pending_ && Joins(is_match)) {
      end_ = end;
    } else {
      FRUGAL_TRY(Flush());
      begin_ = begin;
      end_ = end;
      has_pending_ = true;
    }
    pending_is_match_ = is_match;
    return {};
  }

  Status Flush() {
    const bool removed = behavior_ == SplitBehavior::kRemoved && pending_is_match_;
    if (!has_pending_ || begin_ == end_ || removed) return {};
    return piece_(begin_, end_);
  }

 private:
  bool Joins(bool is_match) const {
    switch (behavior_) {
      case SplitBehavior::kRemoved:
      case SplitBehavior::kIsolated: return false;
      case SplitBehavior::kContiguous: return is_match == pending_is_match_;
      case SplitBehavior::kMergedWithPrevious: return is_match && !pending_is_match_;
      case SplitBehavior::kMergedWithNext: return !is_match && pending_is_match_;
    }
    return false;
  }

  const SplitBehavior behavior_;
  const FunctionRef<Status(size_t, size_t)> piece_;
  size_t begin_ = 0, end_ = 0;
  bool has_pending_ = false, pending_is_match_ = false;
};

Status Replace(const ReplaceStep& step, const Expression& expression, Expression::Scratch& scratch,
               std::string& text) {
  std::string out;
  FRUGAL_TRY(expression.ForEachPart(text, scratch, [&](size_t begin, size_t end, bool is_match) -> Status {
    if (is_match) {
      out += step.content;
    } else {
      out.append(text, begin, end - begin);
    }
    return {};
  }));
  text = std::move(out);
  return {};
}

void Prepend(const PrependStep& step, PiecePlace place, std::string& text) {
  if (text.empty()) return;
  if (step.when != PrependStep::When::kAlways && text.starts_with(step.text)) return;
  if (step.when == PrependStep::When::kUnlessThereAtBegin && place != PiecePlace::kBegin) return;
  text.insert(0, step.text);
}

}  // namespace

struct TextSteps::Walk {
  Expression::Scratch& scratch;
  FunctionRef<void(std::string_view)> word;
};

Result<TextSteps> TextSteps::Create(const std::vector<TextStep>& steps) {
  TextSteps compiled;
  compiled.steps_.reserve(steps.size());
  for (const TextStep& what : steps) {
    Step& step = compiled.steps_.emplace_back(Step{what, std::nullopt});
    const TextPattern* pattern = nullptr;
    if (const auto* replace = std::get_if<ReplaceStep>(&what)) pattern = &replace->pattern;
    if (const auto* split = std::get_if<SplitStep>(&what)) pattern = &split->pattern;
    if (pattern == nullptr) continue;
    FRUGAL_ASSIGN(step.expression, Expression::Compile(*pattern));
  }
  return compiled;
}

Status TextSteps::Apply(const Step& step, PiecePlace place, Expression::Scratch& scratch, std::string& text) {
  if (const auto* unicode = std::get_if<UnicodeStep>(&step.what)) {
    text = Normalized(text, unicode->form);
  } else if (std::holds_alternative<LowercaseStep>(step.what)) {
    text = Lowercased(text);
  } else if (const auto* strip = std::get_if<StripStep>(&step.what)) {
    text = Stripped(text, *strip);
  } else if (const auto* replace = std::get_if<ReplaceStep>(&step.what)) {
    return Replace(*replace, *step.expression, scratch, text);
  } else if (const auto* prepend = std::get_if<PrependStep>(&step.what)) {
    Prepend(*prepend, place, text);
  } else if (std::holds_alternative<SpellStep>(step.what)) {
    text = SpellByteLevel(text);
  }
  return {};
}

Status TextSteps::Transform(std::string& text, Expression::Scratch& scratch) const {
  for (const Step& step : steps_) FRUGAL_TRY(Apply(step, PiecePlace::kBegin, scratch, text));
  return {};
}

Status TextSteps::Split(std::string_view text, PiecePlace place, Expression::Scratch& scratch,
                        FunctionRef<void(std::string_view)> word) const {
  Walk walk{scratch, word};
  return RunFrom(0, text, place, walk);
}

Status TextSteps::RunFrom(size_t index, std::string_view piece, PiecePlace place, Walk& walk) const {
  if (piece.empty()) return {};
  if (index == steps_.size()) {
    walk.word(piece);
    return {};
  }
  const Step& step = steps_[index];
  if (std::holds_alternative<SplitStep>(step.what)) return RunSplit(index, piece, place, walk);
  // A prefix is there more often than not, and a copy of a long text for nothing.
  if (const auto* prepend = std::get_if<PrependStep>(&step.what);
      prepend != nullptr && prepend->when != PrependStep::When::kAlways && piece.starts_with(prepend->text)) {
    return RunFrom(index + 1, piece, place, walk);
  }
  std::string text(piece);
  FRUGAL_TRY(Apply(step, place, walk.scratch, text));
  return RunFrom(index + 1, text, place, walk);
}

Status TextSteps::RunSplit(size_t index, std::string_view piece, PiecePlace place, Walk& walk) const {
  const Step& step = steps_[index];
  const SplitStep& split = std::get<SplitStep>(step.what);
  const auto part = [&](size_t begin, size_t end) -> Status {
    const PiecePlace part_place = begin == 0 ? place : PiecePlace::kLater;
    return RunFrom(index + 1, piece.substr(begin, end - begin), part_place, walk);
  };
  PieceJoiner joiner(split.behavior, part);  // it borrows the callable
  FRUGAL_TRY(step.expression->ForEachPart(
      piece, walk.scratch, [&](size_t begin, size_t end, bool is_match) -> Status {
        return joiner.Add(begin, end, is_match != split.invert);
      }));
  return joiner.Flush();
}

uint64_t TextSteps::memory_bytes() const {
  uint64_t total = steps_.capacity() * sizeof(Step);
  for (const Step& step : steps_) {
    if (step.expression) total += step.expression->memory_bytes();
    if (const auto* replace = std::get_if<ReplaceStep>(&step.what)) {
      total += replace->pattern.text.capacity() + replace->content.capacity();
    } else if (const auto* split = std::get_if<SplitStep>(&step.what)) {
      total += split->pattern.text.capacity();
    } else if (const auto* prepend = std::get_if<PrependStep>(&step.what)) {
      total += prepend->text.capacity();
    }
  }
  return total;
}

}  // namespace frugal
