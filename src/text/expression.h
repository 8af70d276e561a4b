// One regular expression, in Oniguruma's syntax, or a literal text. expression.cc is the only place that knows PCRE2. No JIT: it would map
// executable memory for what takes a small part of the time. Immutable; any thread may use it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "src/base/function_ref.h"
#include "src/base/result.h"
#include "src/text/pipeline.h"

namespace frugal {

class Expression {
 public:
  // kBadModel with the pattern and what is wrong with it or not supported.
  static Result<Expression> Compile(const TextPattern& pattern);
  Expression(Expression&&) noexcept;
  Expression& operator=(Expression&&) noexcept;
  ~Expression();

  // What one thread needs while it matches (some 20 KiB).
  class Scratch {
   public:
    // A match may take a number of steps that is linear in the text: an expression of a bad file must not take exponentially many.
    explicit Scratch(uint64_t text_bytes);
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

   private:
    friend class Expression;
    void* match_data_;
    void* match_context_;
  };

  struct Match {
    size_t begin, end;
  };
  // The first match that begins at `from` or behind. `text` is valid UTF-8, `from` the beginning of a character. kOutOfMemory or kFailed
  // when PCRE2 gives up.
  Result<std::optional<Match>> Find(std::string_view text, size_t from, Scratch& scratch) const;

  // Cuts `text` into matches and what lies between them, in order; a part is empty only where a match is. `part` may return an error,
  // which ends the walk.
  Status ForEachPart(std::string_view text, Scratch& scratch,
                     FunctionRef<Status(size_t begin, size_t end, bool is_match)> part) const;

  uint64_t memory_bytes() const;

 private:
  struct Impl;
  explicit Expression(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace frugal
