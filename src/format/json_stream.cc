#include "src/format/json_stream.h"

#include <algorithm>
#include <exception>
#include <span>
#include <string_view>

#include "src/base/bytes.h"
#include "src/format/untrusted_text.h"

namespace frugal {

void JsonStream::Advance() {
  const char taken = current();
  ++position_;
  Check(taken);
  if (error_) {
    filled_ = position_;
  } else if (position_ == filled_) {
    Refill();
  }
}

uint64_t JsonStream::offset_bytes() const {
  const uint64_t next = next_bytes_ - filled_ + position_;
  return next == 0 ? 0 : next - 1;
}

void JsonStream::Refill() {
  const uint64_t part_bytes = std::min<uint64_t>(buffer_.size(), end_bytes_ - next_bytes_);
  position_ = 0;
  filled_ = 0;
  if (part_bytes == 0) return;
  Status read = source_.Read(next_bytes_, std::span(buffer_).first(part_bytes));
  if (!read) {
    error_ = std::move(read).error();
    return;
  }
  filled_ = part_bytes;
  next_bytes_ += part_bytes;
}

void JsonStream::Check(char c) {
  // The library takes a NUL for the end of the text, whatever follows it.
  if (c == '\0') error_ = BadModel("{}: offset {}: not valid JSON: a NUL", source_.name(), offset_bytes());
  ++token_bytes_;
  if (in_string_) {
    in_string_ = escaped_ || c != '"';
    escaped_ = !escaped_ && c == '\\';
    if (!in_string_) token_bytes_ = 0;
  } else if (c == '"') {
    in_string_ = true;
    token_bytes_ = 0;
  } else if (std::string_view("{}[],:").find(c) != std::string_view::npos) {
    token_bytes_ = 0;
  }
  if (token_bytes_ > kMaxTokenBytes) {
    error_ = BadModel("{}: offset {}: a JSON string, number or run of blanks of more than {}", source_.name(),
                      offset_bytes(), FormatSize(kMaxTokenBytes));
  }
}

bool JsonHandler::parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& failure) {
  // "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error while ...": the kind in
  // brackets and the position, which the offset says already, go.
  std::string_view reason = failure.what();
  if (const size_t bracket = reason.find("] ");
      reason.starts_with('[') && bracket != std::string_view::npos) {
    reason.remove_prefix(bracket + 2);
  }
  if (const size_t colon = reason.find(": ");
      reason.starts_with("parse error at") && colon != std::string_view::npos) {
    reason.remove_prefix(colon + 2);
  }
  return Refuse(fmt::format("not valid JSON: {}", Printable(reason)));
}

bool JsonHandler::Refuse(const std::string& reason) {
  if (!error_) error_ = BadModel("{}: offset {}: {}", stream_.name(), stream_.offset_bytes(), reason);
  return false;
}

Status JsonHandler::Walk() {
  bool accepted = false;
  try {
    accepted = nlohmann::json::sax_parse(JsonStreamIterator(stream_), JsonStreamIterator(), this);
  } catch (const std::bad_alloc&) {
    return MakeError(ErrorCode::kOutOfMemory, "{}: not enough memory for its JSON", stream_.name());
  } catch (const std::exception& failure) {
    Refuse(Printable(failure.what()));
  }
  if (stream_.error())
    return *stream_.error();  // comes first: the text ended there, and so looks like bad JSON
  if (error_) return *error_;
  CHECK(accepted);
  return {};
}

}  // namespace frugal
