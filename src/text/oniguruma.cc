#include "src/text/oniguruma.h"

#include <algorithm>
#include <cctype>

#include "src/text/utf8.h"

namespace frugal {
namespace {

class Translator {
 public:
  Translator(std::string_view pattern, FunctionRef<bool(std::string_view)> is_script)
      : pattern_(pattern), is_script_(is_script) {}

  Result<std::string> Run() {
    if (const auto broken = FindInvalidUtf8(pattern_)) return BadModel("not UTF-8 at byte {}", *broken);
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') {
        FRUGAL_TRY(Escape());
      } else if (class_depth_ > 0) {
        FRUGAL_TRY(ClassCharacter());
      } else if (c == '[') {
        class_depth_ = 1;
        Take(1);
        if (Starts("^")) Take(1);
        if (Starts("]")) Take(1);  // it stands for itself there
      } else if (Starts("(?")) {
        FRUGAL_TRY(Group());
      } else if (c == '{') {
        FRUGAL_TRY(Interval());
      } else {
        Take(1);
      }
    }
    if (class_depth_ > 0) return BadModel("a class does not end");
    return std::move(out_);
  }

 private:
  bool Starts(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  void Take(size_t count) {
    out_ += pattern_.substr(at_, count);
    at_ += count;
  }
  void Say(std::string_view text, size_t instead_of) {
    out_ += text;
    at_ += instead_of;
  }
  Error Refuse(std::string_view what) const { return BadModel("{} at byte {} is not supported", what, at_); }

  Status ClassCharacter() {
    if (Starts("&&")) return Refuse("an intersection of classes");
    if (Starts("[:")) return Refuse("a POSIX class");
    if (Starts("[^")) return Refuse("a negated class in a class");
    // A class in a class adds its characters to it.
    if (Starts("[")) {
      ++class_depth_;
      ++at_;
    } else if (Starts("]") && class_depth_ > 1) {
      --class_depth_;
      ++at_;
    } else {
      if (Starts("]")) class_depth_ = 0;
      Take(1);
    }
    return {};
  }

  // Flags: Ruby's m lets a dot match newlines, which is PCRE2's s.
  Status Group() {
    size_t end = at_ + 2;
    while (end < pattern_.size() && (std::isalpha(static_cast<unsigned char>(pattern_[end])) != 0 || pattern_[end] == '-')) ++end;
    const bool is_flags = end > at_ + 2 && end < pattern_.size() && (pattern_[end] == ':' || pattern_[end] == ')');
    if (!is_flags) {
      Take(2);
      return {};
    }
    std::string flags(pattern_.substr(at_, end - at_));
    for (char& flag : flags) {
      if (flag == 'm') flag = 's';
      else if (std::isalpha(static_cast<unsigned char>(flag)) != 0 && flag != 'i') return Refuse("a flag of a group");
    }
    Say(flags, end - at_);
    return {};
  }

  Status Interval() {
    const size_t end = pattern_.find('}', at_);
    if (end == std::string_view::npos) return Refuse("{ without }");
    const std::string_view inside = pattern_.substr(at_ + 1, end - at_ - 1);
    const bool is_interval = !inside.empty() && inside != "," && std::all_of(inside.begin(), inside.end(), [](char c) {
      return (c >= '0' && c <= '9') || c == ',';
    });
    if (!is_interval) return Refuse("a brace that is no interval");
    // {1,3}+ repeats the interval in Ruby's syntax and is possessive in PCRE2's.
    if (pattern_.substr(end + 1).starts_with('+')) return Refuse("a quantifier of an interval");
    if (inside[0] == ',') Say("{0", 1);
    Take(end + 1 - at_);
    return {};
  }

  Status Property() {
    if (at_ + 2 >= pattern_.size() || pattern_[at_ + 2] != '{') return Refuse("a property without braces");
    const size_t end = pattern_.find('}', at_);
    if (end == std::string_view::npos) return Refuse("a property without end");
    std::string_view name = pattern_.substr(at_ + 3, end - at_ - 3);
    const bool negated = name.starts_with('^') != (pattern_[at_ + 1] == 'P');
    if (name.starts_with('^')) name.remove_prefix(1);
    const bool is_name = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == ' ' || c == '-';
    });
    if (!is_name) return Refuse("a property of this name");
    const bool script = name.size() > 2 && is_script_(name);
    Say(fmt::format("\\{}{{{}{}}}", negated ? 'P' : 'p', script ? "sc:" : "", name), end + 1 - at_);
    return {};
  }

  void Words(bool negated) {
    Say(class_depth_ > 0 ? kWordClass : fmt::format("[{}{}]", negated ? "^" : "", kWordClass), 2);
  }

  void Border(bool negated) {
    Say(fmt::format("(?:(?<=[{0}])(?{1}[{0}])|(?<![{0}])(?{2}[{0}]))", kWordClass, negated ? "=" : "!",
                    negated ? "!" : "="),
        2);
  }

  Status Escape() {
    if (at_ + 1 == pattern_.size()) return Refuse("a backslash at the end");
    const char c = pattern_[at_ + 1];
    const bool is_letter = std::isalnum(static_cast<unsigned char>(c)) != 0;
    if (!is_letter) {
      // A character of several bytes may stand behind a backslash.
      Take(1 + NextUtf8(pattern_.substr(at_ + 1)).size_bytes);
      return {};
    }
    switch (c) {
      case 's': Say(R"(\p{White_Space})", 2); return {};
      case 'S': Say(R"(\P{White_Space})", 2); return {};
      case 'd': Say(R"(\p{Nd})", 2); return {};
      case 'D': Say(R"(\P{Nd})", 2); return {};
      case 'v': Say(R"(\x0B)", 2); return {};
      case 'h': Say(class_depth_ > 0 ? "0-9A-Fa-f" : "[0-9A-Fa-f]", 2); return {};
      case 'w': Words(false); return {};
      case 'p':
      case 'P': return Property();
      case 'u': return Unicode();
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'a':
      case 'e': Take(2); return {};
      case 'x': return Hexadecimal();
      default: break;
    }
    if (class_depth_ > 0) return Refuse(fmt::format("\\{} in a class", c));
    switch (c) {
      case 'W': Words(true); return {};
      case 'b': Border(false); return {};
      case 'B': Border(true); return {};
      case 'A':
      case 'z':
      case 'Z': Take(2); return {};
      default: return Refuse(fmt::format("\\{}", c));
    }
  }

  Status Hexadecimal() {
    size_t end = at_ + 2;
    if (pattern_.substr(end).starts_with('{')) {
      end = pattern_.find('}', at_);
      if (end == std::string_view::npos) return Refuse("\\x{ without }");
      ++end;
    }
    Take(end - at_);
    return {};
  }

  Status Unicode() {
    const std::string_view digits = pattern_.substr(at_ + 2, 4);
    const bool is_number = digits.size() == 4 && std::all_of(digits.begin(), digits.end(), [](char c) {
      return std::isxdigit(static_cast<unsigned char>(c)) != 0;
    });
    if (!is_number) return Refuse("\\u without four digits");
    Say(fmt::format("\\x{{{}}}", digits), 6);
    return {};
  }

  const std::string_view pattern_;
  const FunctionRef<bool(std::string_view)> is_script_;
  std::string out_;
  size_t at_ = 0;
  size_t class_depth_ = 0;  // 0: outside of classes
};

}  // namespace

Result<std::string> TranslateOniguruma(std::string_view pattern, FunctionRef<bool(std::string_view)> is_script) {
  return Translator(pattern, is_script).Run();
}

}  // namespace frugal
