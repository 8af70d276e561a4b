#include "src/text/json_events.h"

#include <limits>
#include <new>
#include <utility>

#include "src/text/utf8.h"

namespace frugal {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 64;

// Handler of nlohmann's events. Each returns whether to go on; error_ says why not.
class Events {
 public:
  Events(TokenizerDocumentKind kind, TokenizerDocument& document) : kind_(kind), document_(document) {}

  const std::string& error() const { return error_; }

  // The names are nlohmann's.
  bool null() { return Scalar(json()); }
  bool boolean(bool value) { return Scalar(json(value)); }
  bool number_integer(json::number_integer_t value) {
    if (place() == Place::kScoredToken) return Score(static_cast<double>(value));
    return place() == Place::kVocabulary ? FailAtToken(fmt::format("id {}", value)) : Scalar(json(value));
  }
  bool number_unsigned(json::number_unsigned_t value) {
    if (place() == Place::kScoredToken) return Score(static_cast<double>(value));
    if (place() != Place::kVocabulary) return Scalar(json(value));
    if (value > static_cast<uint64_t>(std::numeric_limits<int32_t>::max())) {
      return FailAtToken(fmt::format("id {}", value));
    }
    document_.entries.push_back({std::move(key_), static_cast<int32_t>(value)});
    return true;
  }
  bool number_float(json::number_float_t value, const std::string&) {
    return place() == Place::kScoredToken ? Score(value) : Scalar(json(value));
  }
  bool string(std::string& value);
  bool binary(json::binary_t&) { return false; }
  bool start_object(size_t);
  bool key(std::string& value);
  bool end_object() { return End(); }
  bool start_array(size_t);
  bool end_array() { return End(); }
  bool parse_error(size_t position, const std::string& last_token, const nlohmann::detail::exception& error);

 private:
  enum class Place { kTree, kVocabulary, kScoredVocabulary, kScoredToken, kMerges, kMergePair };
  struct Frame {
    Place place;
    json* node;        // in the tree; nullptr elsewhere
    std::string name;  // of a node of the tree: the key under which it lies
  };

  Place place() const { return frames_.empty() ? Place::kTree : frames_.back().place; }
  bool FailAtToken(std::string_view found) {
    return Fail(fmt::format("{}token {}: {}, expected an id of 0 to 2147483647",
                            kind_ == TokenizerDocumentKind::kVocabJson ? "" : "model.vocab: ", Quoted(key_),
                            found));
  }
  bool Fail(std::string what) {
    error_ = std::move(what);
    return false;
  }
  bool FailAtScoredToken() {
    return Fail(fmt::format("model.vocab[{}]: expected a token and its score", document_.entries.size()));
  }
  bool Scalar(json value);
  bool Score(double score);
  bool Push(Frame frame);
  bool End();
  bool InModel(std::string_view key) const;
  json* Insert(json value);

  const TokenizerDocumentKind kind_;
  TokenizerDocument& document_;
  std::vector<Frame> frames_;
  std::string key_;
  std::string pair_[2];  // the merge being read
  size_t pair_size_ = 0;  // of that, or of a token and its score
  std::string error_;
};

// Whether the value that comes is `model.KEY` of a tokenizer.json.
bool Events::InModel(std::string_view key) const {
  return kind_ == TokenizerDocumentKind::kTokenizerJson && frames_.size() == 2 && place() == Place::kTree &&
         frames_.back().name == "model" && frames_.back().node->is_object() && key_ == key;
}

json* Events::Insert(json value) {
  if (frames_.empty()) {
    document_.rest = std::move(value);
    return &document_.rest;
  }
  json& parent = *frames_.back().node;
  if (parent.is_array()) {
    parent.push_back(std::move(value));
    return &parent.back();
  }
  return &(parent[key_] = std::move(value));
}

bool Events::Scalar(json value) {
  switch (place()) {
    case Place::kTree:
      if (frames_.empty() && kind_ != TokenizerDocumentKind::kPlain) return Fail("expected an object");
      Insert(std::move(value));
      return true;
    case Place::kVocabulary:
      return FailAtToken("no whole number");
    case Place::kMerges:
    case Place::kMergePair:
      return Fail(fmt::format("model.merges[{}]: expected a string, or two", document_.merges.size()));
    case Place::kScoredVocabulary:
    case Place::kScoredToken:
      return FailAtScoredToken();
  }
  return false;
}

bool Events::Score(double score) {
  if (pair_size_ != 1 || document_.entries.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    return FailAtScoredToken();
  }
  pair_size_ = 2;
  document_.entries.push_back({std::move(pair_[0]), static_cast<int32_t>(document_.entries.size()), score});
  return true;
}

bool Events::string(std::string& value) {
  if (place() == Place::kMerges) {
    document_.merges.push_back(std::move(value));
    return true;
  }
  if (place() == Place::kMergePair && pair_size_ < 2) {
    pair_[pair_size_++] = std::move(value);
    return true;
  }
  if (place() == Place::kScoredToken && pair_size_ == 0) {
    pair_[pair_size_++] = std::move(value);
    return true;
  }
  return Scalar(place() == Place::kTree ? json(std::move(value)) : json());
}

bool Events::Push(Frame frame) {
  if (frames_.size() == kMaxDepth) return Fail(fmt::format("nested more than {} deep", kMaxDepth));
  frames_.push_back(std::move(frame));
  return true;
}

bool Events::start_object(size_t) {
  if (place() != Place::kTree) return Scalar(json());  // fails with what was expected
  if (InModel("vocab") || (kind_ == TokenizerDocumentKind::kVocabJson && frames_.empty())) {
    if (document_.has_vocabulary || document_.has_scored_vocabulary) return Fail("model.vocab is there twice");
    document_.has_vocabulary = true;
    return Push({Place::kVocabulary, nullptr, {}});
  }
  json* node = Insert(json::object());
  return Push({Place::kTree, node, key_});
}

bool Events::start_array(size_t) {
  if (place() == Place::kScoredVocabulary) {
    pair_size_ = 0;
    return Push({Place::kScoredToken, nullptr, {}});
  }
  if (place() == Place::kMerges) {
    pair_size_ = 0;
    return Push({Place::kMergePair, nullptr, {}});
  }
  if (place() != Place::kTree) return Scalar(json());
  if (frames_.empty() && kind_ != TokenizerDocumentKind::kPlain) return Fail("expected an object");
  if (InModel("vocab")) {
    if (document_.has_vocabulary || document_.has_scored_vocabulary) return Fail("model.vocab is there twice");
    document_.has_scored_vocabulary = true;
    return Push({Place::kScoredVocabulary, nullptr, {}});
  }
  if (InModel("merges")) {
    if (document_.has_merges) return Fail("model.merges is there twice");
    document_.has_merges = true;
    return Push({Place::kMerges, nullptr, {}});
  }
  json* node = Insert(json::array());
  return Push({Place::kTree, node, key_});
}

bool Events::key(std::string& value) {
  if (place() == Place::kTree && frames_.back().node->contains(value)) {
    return Fail(fmt::format("key {} is there twice", Quoted(value)));
  }
  key_ = std::move(value);
  return true;
}

bool Events::End() {
  const Place ended = place();
  frames_.pop_back();
  if (ended == Place::kScoredToken && pair_size_ != 2) return FailAtScoredToken();
  if (ended != Place::kMergePair) return true;
  const size_t index = document_.merges.size();
  if (pair_size_ != 2)
    return Fail(fmt::format("model.merges[{}]: {} strings, expected two", index, pair_size_));
  for (const std::string& part : pair_) {
    if (part.find(' ') != std::string::npos) {
      return Fail(
          fmt::format("model.merges[{}]: {}: a space in a merge is not supported", index, Quoted(part)));
    }
  }
  document_.merges.push_back(pair_[0] + " " + pair_[1]);
  return true;
}

bool Events::parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) {
  // nlohmann's message ends in what it read last, which may be a megabyte and may be no text.
  std::string_view what = error.what();
  if (const size_t end = what.find("; last read"); end != what.npos) what = what.substr(0, end);
  if (const size_t begin = what.rfind(" - "); begin != what.npos) what = what.substr(begin + 3);
  std::string reason;
  for (const char c : what.substr(0, 120)) reason.push_back(c >= 0x20 && c <= 0x7E ? c : '?');
  // nlohmann counts the bytes that it has read; the one that is wrong is the last of them.
  return Fail(fmt::format("byte {}: not JSON: {}", position == 0 ? 0 : position - 1, reason));
}

// What people put in place of a model file by mistake.
std::string_view KnownImpostor(std::string_view text) {
  if (text.starts_with("version https://git-lfs")) return "this is a Git LFS pointer, not the file itself";
  if (text.starts_with("<!") || text.starts_with("<html")) return "this is a web page, not JSON";
  return {};
}

}  // namespace

Result<TokenizerDocument> ParseTokenizerDocument(std::string_view text, TokenizerDocumentKind kind,
                                                 const std::string& name) {
  if (const std::string_view impostor = KnownImpostor(text); !impostor.empty())
    return BadModel("{}: {}", name, impostor);
  try {
    TokenizerDocument document;
    Events events(kind, document);
    if (!json::sax_parse(text.begin(), text.end(), &events)) return BadModel("{}: {}", name, events.error());
    if (kind != TokenizerDocumentKind::kVocabJson && !document.rest.is_object()) {
      return BadModel("{}: expected an object", name);
    }
    return document;
  } catch (const std::bad_alloc&) {
    return MakeError(ErrorCode::kOutOfMemory, "{}: no memory to read {} bytes of JSON", name, text.size());
  } catch (const std::exception& error) {
    return BadModel("{}: not JSON: {}", name, Quoted(error.what()));
  }
}

}  // namespace frugal
