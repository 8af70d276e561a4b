// Result<T> and Status: how every failure of the world travels (files, flags, memory, devices). Spelled like
// std::expected. Mistakes of the programmer are CHECKs (check.h) instead. Not thread-bound; nothing here prints.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>

#include "src/base/check.h"

namespace frugal {

// The numbers are the exit codes of the program.
enum class ErrorCode {
  kFailed = 1,
  kUsage = 2,
  kBadModel = 3,
  kDoesNotFit = 4,
  kIo = 5,
  kOutOfMemory = 6,
};

struct Error {
  ErrorCode code = ErrorCode::kFailed;
  std::string message;  // one sentence a user can act on: file, tensor, offset, what was expected
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}   // NOLINT: implicit on purpose
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }
  T& value() & {
    CHECK(has_value());
    return std::get<0>(state_);
  }
  const T& value() const& {
    CHECK(has_value());
    return std::get<0>(state_);
  }
  T&& value() && {
    CHECK(has_value());
    return std::get<0>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const& {
    CHECK(!has_value());
    return std::get<1>(state_);
  }
  Error&& error() && {
    CHECK(!has_value());
    return std::get<1>(std::move(state_));
  }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit on purpose

  bool has_value() const { return !error_.has_value(); }
  explicit operator bool() const { return has_value(); }
  const Error& error() const& {
    CHECK(error_.has_value());
    return *error_;
  }
  Error&& error() && {
    CHECK(error_.has_value());
    return *std::move(error_);
  }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

template <typename... Args>
Error MakeError(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return Error{code, fmt::format(format, std::forward<Args>(args)...)};
}
template <typename... Args>
Error BadModel(fmt::format_string<Args...> format, Args&&... args) {
  return Error{ErrorCode::kBadModel, fmt::format(format, std::forward<Args>(args)...)};
}

// What the system calls the errno `number`; from any thread.
inline std::string ErrnoText(int number) { return std::generic_category().message(number); }

// The same error with "context: " in front.
inline Error WithContext(Error error, std::string_view context) {
  error.message = fmt::format("{}: {}", context, error.message);
  return error;
}

#define FRUGAL_CONCAT_INNER(a, b) a##b
#define FRUGAL_CONCAT(a, b) FRUGAL_CONCAT_INNER(a, b)

// Returns the error of `expression` (a Status or Result) from the enclosing function, if it has one.
#define FRUGAL_TRY(expression)                                        \
  do {                                                                \
    auto frugal_status = (expression);                                \
    if (!frugal_status) return std::move(frugal_status).error();      \
  } while (false)

// FRUGAL_ASSIGN(auto x, F()): x = the value of F(), or returns F()'s error.
#define FRUGAL_ASSIGN(declaration, expression) \
  FRUGAL_ASSIGN_INNER(FRUGAL_CONCAT(frugal_result_, __LINE__), declaration, expression)
#define FRUGAL_ASSIGN_INNER(result, declaration, expression) \
  auto result = (expression);                                \
  if (!result) return std::move(result).error();             \
  declaration = std::move(result).value()

}  // namespace frugal
