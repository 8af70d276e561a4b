// Compiled steps of a pipeline: they normalise a text, or cut it into the words that the model of a tokenizer works on. Immutable; any
// thread may use it. What a step makes lies on the stack of the call until the words that come of it have been given out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/function_ref.h"
#include "src/base/result.h"
#include "src/text/expression.h"
#include "src/text/pipeline.h"

namespace frugal {

// Whether a piece is what the whole text begins with.
enum class PiecePlace { kBegin, kLater };

class TextSteps {
 public:
  static Result<TextSteps> Create(const std::vector<TextStep>& steps);

  bool empty() const { return steps_.empty(); }
  // Replaces `text` by what the steps make of it; there is no SplitStep among them. `text` is valid UTF-8, and is so afterwards.
  Status Transform(std::string& text, Expression::Scratch& scratch) const;
  // Gives the words of `text` out, in order, none of them empty. Words that came before an error are to be thrown away.
  Status Split(std::string_view text, PiecePlace place, Expression::Scratch& scratch,
               FunctionRef<void(std::string_view)> word) const;

  uint64_t memory_bytes() const;

 private:
  struct Step {
    TextStep what;
    std::optional<Expression> expression;  // of a ReplaceStep or SplitStep
  };
  struct Walk;

  Status RunFrom(size_t index, std::string_view piece, PiecePlace place, Walk& walk) const;
  Status RunSplit(size_t index, std::string_view piece, PiecePlace place, Walk& walk) const;
  static Status Apply(const Step& step, PiecePlace place, Expression::Scratch& scratch, std::string& text);

  std::vector<Step> steps_;
};

}  // namespace frugal
