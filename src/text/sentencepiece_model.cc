// A SentencePiece model (tokenizer.model): a protocol buffer, sentencepiece_model.proto of google/sentencepiece. Read here are, of
// ModelProto, pieces (1), trainer_spec (2) and normalizer_spec (3); all else is skipped. A file is untrusted: every length is checked,
// nothing is nested deeper than two messages.
#include <bit>
#include <cmath>
#include <string>
#include <string_view>

#include "src/text/utf8.h"
#include "src/text/vocabulary.h"

namespace frugal {
namespace {

// One field of a message.
struct Field {
  uint32_t number = 0;
  uint32_t wire_type = 0;  // 0: number, 1: 8 bytes, 2: bytes, 5: 4 bytes
  uint64_t value = 0;      // of wire types 0, 1 and 5
  std::string_view bytes;  // of wire type 2
};

// Reads the fields of a message one after the other. `offset` is the message's place in the file, for messages.
class FieldReader {
 public:
  FieldReader(std::string_view message, size_t offset) : message_(message), offset_(offset) {}

  bool done() const { return at_ == message_.size(); }
  size_t offset() const { return offset_ + at_; }

  Result<Field> Next() {
    FRUGAL_ASSIGN(const uint64_t tag, Varint());
    Field field;
    if (tag >> 3 == 0 || tag >> 3 > UINT32_MAX) return BadModel("byte {}: field {} is unknown", offset(), tag >> 3);
    field.number = static_cast<uint32_t>(tag >> 3);
    field.wire_type = static_cast<uint32_t>(tag & 7);
    switch (field.wire_type) {
      case 0: {
        FRUGAL_ASSIGN(field.value, Varint());
        return field;
      }
      case 1: {
        FRUGAL_ASSIGN(field.value, Fixed(8));
        return field;
      }
      case 5: {
        FRUGAL_ASSIGN(field.value, Fixed(4));
        return field;
      }
      case 2: {
        FRUGAL_ASSIGN(const uint64_t size_bytes, Varint());
        if (size_bytes > message_.size() - at_) {
          return BadModel("byte {}: field {} has {} bytes, {} are left", offset(), field.number, size_bytes,
                          message_.size() - at_);
        }
        field.bytes = message_.substr(at_, size_bytes);
        at_ += size_bytes;
        return field;
      }
      default:
        return BadModel("byte {}: field {} has wire type {}, expected 0, 1, 2 or 5", offset(), field.number,
                        field.wire_type);
    }
  }

  // Where the bytes of the field just read begin.
  size_t bytes_offset(const Field& field) const { return offset() - field.bytes.size(); }

 private:
  Result<uint64_t> Varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (done()) return BadModel("byte {}: ends inside a number", offset());
      const uint64_t byte = static_cast<unsigned char>(message_[at_++]);
      value |= (byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    return BadModel("byte {}: a number of more than 10 bytes", offset());
  }

  Result<uint64_t> Fixed(size_t size_bytes) {
    if (message_.size() - at_ < size_bytes) return BadModel("byte {}: ends inside a number", offset());
    uint64_t value = 0;
    for (size_t i = 0; i < size_bytes; ++i) {
      value |= static_cast<uint64_t>(static_cast<unsigned char>(message_[at_++])) << (8 * i);
    }
    return value;
  }

  const std::string_view message_;
  const size_t offset_;
  size_t at_ = 0;
};

enum class ModelType : uint64_t { kUnigram = 1, kBpe = 2 };

// What the two specifications say that matters; the values are the format's defaults.
struct Specs {
  ModelType model_type = ModelType::kUnigram;
  bool byte_fallback = false;
  bool whitespace_as_suffix = false;
  int32_t unk_id = 0, bos_id = 1, eos_id = 2, pad_id = -1;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool has_charsmap = false;
};

Error WrongType(const Field& field, std::string_view what) {
  return BadModel("{}: wire type {} is not the format's", what, field.wire_type);
}

Status ReadPiece(std::string_view message, size_t offset, Vocabulary& vocabulary) {
  const size_t id = vocabulary.tokens.size();
  std::string_view text;
  float score = 0.0f;
  uint64_t type = static_cast<uint64_t>(TokenKind::kNormal);
  FieldReader reader(message, offset);
  while (!reader.done()) {
    FRUGAL_ASSIGN(const Field field, reader.Next());
    if (field.number > 3) continue;
    const uint32_t expected = field.number == 1 ? 2 : field.number == 2 ? 5 : 0;
    if (field.wire_type != expected) return WrongType(field, fmt::format("piece {}", id));
    if (field.number == 1) text = field.bytes;
    if (field.number == 2) score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    if (field.number == 3) type = field.value;
  }
  // The format's numbers of types are those that GGUF took over.
  constexpr TokenKind kKinds[] = {TokenKind::kNormal, TokenKind::kUnknown, TokenKind::kControl, TokenKind::kUserDefined,
                                  TokenKind::kUnused, TokenKind::kByte};
  if (type == 0 || type > std::size(kKinds)) return BadModel("piece {}: type {} is unknown", id, type);
  if (text.empty()) return BadModel("piece {} is empty", id);
  if (std::isnan(score)) return BadModel("piece {} {}: its score is no number", id, Quoted(text));
  vocabulary.tokens.emplace_back(text);
  vocabulary.scores.push_back(score);
  vocabulary.kinds.push_back(static_cast<TokenKind>(type));
  return {};
}

Status ReadTrainerSpec(std::string_view message, size_t offset, Specs& specs) {
  FieldReader reader(message, offset);
  while (!reader.done()) {
    FRUGAL_ASSIGN(const Field field, reader.Next());
    int32_t* id = nullptr;
    switch (field.number) {
      case 3: specs.model_type = static_cast<ModelType>(field.value); break;
      case 24: specs.whitespace_as_suffix = field.value != 0; break;
      case 35: specs.byte_fallback = field.value != 0; break;
      case 40: id = &specs.unk_id; break;
      case 41: id = &specs.bos_id; break;
      case 42: id = &specs.eos_id; break;
      case 43: id = &specs.pad_id; break;
      default: continue;
    }
    if (field.wire_type != 0) return WrongType(field, fmt::format("trainer_spec field {}", field.number));
    if (id == nullptr) continue;
    // -1 is "none".
    const int64_t value = static_cast<int64_t>(field.value);
    if (value < -1 || value > INT32_MAX) return BadModel("trainer_spec field {}: {} is no id", field.number, value);
    *id = static_cast<int32_t>(value);
  }
  return {};
}

Status ReadNormalizerSpec(std::string_view message, size_t offset, Specs& specs) {
  FieldReader reader(message, offset);
  while (!reader.done()) {
    FRUGAL_ASSIGN(const Field field, reader.Next());
    if (field.number < 2 || field.number > 5) continue;
    if (field.wire_type != (field.number == 2 ? 2u : 0u)) {
      return WrongType(field, fmt::format("normalizer_spec field {}", field.number));
    }
    if (field.number == 2) specs.has_charsmap = !field.bytes.empty();
    if (field.number == 3) specs.add_dummy_prefix = field.value != 0;
    if (field.number == 4) specs.remove_extra_whitespaces = field.value != 0;
    if (field.number == 5) specs.escape_whitespaces = field.value != 0;
  }
  return {};
}

// An id of the trainer's stands only where the piece is of its kind: trainers write the defaults for tokens that they left out.
int32_t IdOfKind(const Vocabulary& vocabulary, int32_t id, TokenKind kind) {
  if (id < 0 || static_cast<size_t>(id) >= vocabulary.kinds.size()) return -1;
  return vocabulary.kinds[static_cast<size_t>(id)] == kind ? id : -1;
}

Status ApplySpecs(const Specs& specs, Vocabulary& vocabulary) {
  if (specs.model_type != ModelType::kUnigram && specs.model_type != ModelType::kBpe) {
    return BadModel("trainer_spec: model type {} is not supported: expected 1 (unigram) or 2 (BPE)",
                    static_cast<uint64_t>(specs.model_type));
  }
  if (specs.has_charsmap) return BadModel("normalizer_spec: a precompiled map of characters is not supported");
  if (!specs.escape_whitespaces) return BadModel("normalizer_spec: escape_whitespaces false is not supported");
  if (specs.whitespace_as_suffix) return BadModel("trainer_spec: treat_whitespace_as_suffix is not supported");
  vocabulary.model = specs.model_type == ModelType::kBpe ? "llama" : "t5";
  vocabulary.pre_tokenizer = "default";
  vocabulary.sentencepiece = true;
  vocabulary.add_prefix_space = specs.add_dummy_prefix;
  vocabulary.removes_extra_spaces = specs.remove_extra_whitespaces;
  vocabulary.byte_fallback = specs.byte_fallback;
  vocabulary.unk_id = IdOfKind(vocabulary, specs.unk_id, TokenKind::kUnknown);
  vocabulary.bos_id = IdOfKind(vocabulary, specs.bos_id, TokenKind::kControl);
  vocabulary.eos_id = IdOfKind(vocabulary, specs.eos_id, TokenKind::kControl);
  vocabulary.pad_id = IdOfKind(vocabulary, specs.pad_id, TokenKind::kControl);
  if (vocabulary.bos_id >= 0) vocabulary.prefix_ids = {vocabulary.bos_id};
  return {};
}

Result<Vocabulary> Read(std::string_view bytes) {
  Vocabulary vocabulary;
  Specs specs;
  FieldReader reader(bytes, 0);
  while (!reader.done()) {
    FRUGAL_ASSIGN(const Field field, reader.Next());
    if (field.number > 3) continue;
    if (field.wire_type != 2) return WrongType(field, fmt::format("byte {}: field {}", reader.offset(), field.number));
    const size_t offset = reader.bytes_offset(field);
    if (field.number == 1) FRUGAL_TRY(ReadPiece(field.bytes, offset, vocabulary));
    if (field.number == 2) FRUGAL_TRY(ReadTrainerSpec(field.bytes, offset, specs));
    if (field.number == 3) FRUGAL_TRY(ReadNormalizerSpec(field.bytes, offset, specs));
  }
  if (vocabulary.tokens.empty()) return BadModel("the vocabulary has no pieces: this is no SentencePiece model");
  FRUGAL_TRY(ApplySpecs(specs, vocabulary));
  return vocabulary;
}

}  // namespace

Result<Vocabulary> ParseSentencePiece(std::string_view bytes, const std::string& name) {
  if (bytes.starts_with("version https://git-lfs")) {
    return BadModel("{}: this is a Git LFS pointer, not the file itself", name);
  }
  Result<Vocabulary> vocabulary = Read(bytes);
  if (!vocabulary) return WithContext(std::move(vocabulary).error(), name);
  return vocabulary;
}

}  // namespace frugal
