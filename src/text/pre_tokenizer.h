// Splits text into the words that BPE works on, by GPT-2's expression. The only place that knows PCRE2. No
// JIT: it would map executable memory for an expression that takes a small part of the time. Immutable; any
// thread may use it.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "src/base/function_ref.h"
#include "src/base/result.h"

namespace frugal {

class PreTokenizer {
 public:
  static Result<PreTokenizer> Create();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  // What one thread needs while it splits (about 20 KiB).
  class Scratch {
   public:
    explicit Scratch(const PreTokenizer& pre_tokenizer);
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

   private:
    friend class PreTokenizer;
    void* match_data_;
  };

  // Calls `word` for each word of `text`, in order; together they are the text. `text` is valid UTF-8.
  // kOutOfMemory or kFailed when PCRE2 gives up; words that came before are then to be thrown away.
  Status Split(std::string_view text, Scratch& scratch, FunctionRef<void(std::string_view)> word) const;

  // Whether `\w` of Rust's expressions matches the character at the beginning of `text` (valid UTF-8, not
  // empty).
  bool StartsWithWordCharacter(std::string_view text, Scratch& scratch) const;

  // Of the compiled expressions.
  uint64_t memory_bytes() const;

 private:
  struct Impl;
  explicit PreTokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace frugal
