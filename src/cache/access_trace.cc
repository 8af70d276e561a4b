#include "src/cache/access_trace.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string_view>

#include "src/base/bytes.h"
#include "src/base/check.h"

namespace frugal {
namespace {

constexpr std::string_view kMagic = "FRUGALTR";
constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderBytes = 32;
constexpr size_t kEndBytes = 1 + 8 + 8;  // end mark, number of tokens, hash
constexpr std::byte kEndMark{0}, kTokenMark{1};

template <typename T>
void Append(T value, std::vector<std::byte>& out) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

std::vector<std::byte> HeaderBytes(const TraceHeader& header) {
  std::vector<std::byte> bytes;
  for (const char c : kMagic) bytes.push_back(static_cast<std::byte>(c));
  Append(kVersion, bytes);
  Append(header.num_layers, bytes);
  Append(header.ffn_size, bytes);
  Append(uint32_t{0}, bytes);
  Append(header.model_content_hash, bytes);
  return bytes;
}

// Walks the bytes of a trace; after a failed read `failed()` says where and why.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, size_t begin, size_t end) : bytes_(bytes), at_(begin), end_(end) {}

  size_t at() const { return at_; }
  bool at_end() const { return at_ == end_; }
  std::byte Byte() { return bytes_[at_++]; }
  // False when the bytes end within the number or it has more than 32 bits.
  bool ReadVarint(uint32_t* value) {
    uint64_t result = 0;
    for (int shift = 0; shift < 35 && at_ < end_; shift += 7) {
      const uint64_t byte = static_cast<uint64_t>(bytes_[at_++]);
      result |= (byte & 0x7f) << shift;
      if ((byte & 0x80) != 0) continue;
      *value = static_cast<uint32_t>(result);
      return result <= ~uint32_t{0};
    }
    return false;
  }

 private:
  std::span<const std::byte> bytes_;
  size_t at_, end_;
};

Result<TraceHeader> ParseHeader(std::span<const std::byte> bytes, const std::string& name) {
  if (bytes.size() < kMagic.size() || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    return BadModel("{}: does not begin with \"{}\": this is no access trace", name, kMagic);
  }
  if (bytes.size() < kHeaderBytes + kEndBytes) {
    return BadModel("{}: has {} bytes, a trace has at least {}", name, bytes.size(),
                    kHeaderBytes + kEndBytes);
  }
  const uint32_t version = LoadUnaligned<uint32_t>(bytes.data() + 8);
  if (version != kVersion) return BadModel("{}: version {}, expected {}", name, version, kVersion);
  TraceHeader header;
  header.num_layers = LoadUnaligned<uint32_t>(bytes.data() + 12);
  header.ffn_size = LoadUnaligned<uint32_t>(bytes.data() + 16);
  header.model_content_hash = LoadUnaligned<uint64_t>(bytes.data() + 24);
  if (header.num_layers == 0 || header.num_layers > AccessTrace::kMaxLayers) {
    return BadModel("{}: {} layers, expected 1 to {}", name, header.num_layers, AccessTrace::kMaxLayers);
  }
  if (header.ffn_size == 0 || header.ffn_size > AccessTrace::kMaxBundles / header.num_layers) {
    return BadModel("{}: {} bundles in each of {} layers, expected 1 to {}", name, header.ffn_size,
                    header.num_layers, AccessTrace::kMaxBundles / header.num_layers);
  }
  return header;
}

}  // namespace

AccessTraceWriter::AccessTraceWriter(const TraceHeader& header, Sink sink)
    : header_(header),
      sink_(std::move(sink)),
      hash_(XXH3_createState()),
      words_((header.ffn_size + 63) / 64) {
  CHECK(hash_ != nullptr && header.num_layers > 0 && header.ffn_size > 0);
  XXH3_64bits_reset(hash_);
  buffer_ = HeaderBytes(header);
}

AccessTraceWriter::~AccessTraceWriter() { XXH3_freeState(hash_); }

uint64_t AccessTraceWriter::MemoryBytes(const TraceHeader& header, uint32_t max_tokens) {
  const uint64_t words = (header.ffn_size + 63) / 64;
  // A set is added to a buffer that is not full; a vector that grows holds its old and its new memory.
  return max_tokens * header.num_layers * words * sizeof(uint64_t) +
         3 * (kBufferBytes + 2 * uint64_t{header.ffn_size});
}

void AccessTraceWriter::PutVarint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) buffer_.push_back(static_cast<std::byte>(value | 0x80));
  buffer_.push_back(static_cast<std::byte>(value));
}

void AccessTraceWriter::PutSet(const uint64_t* words) {
  uint64_t count = 0;
  for (size_t word = 0; word < words_; ++word) count += static_cast<uint64_t>(std::popcount(words[word]));
  PutVarint(count);
  uint32_t next = 0;  // the smallest position that may follow
  for (uint32_t word = 0; word < words_; ++word) {
    for (uint64_t bits = words[word]; bits != 0; bits &= bits - 1) {
      const uint32_t position = word * 64 + static_cast<uint32_t>(std::countr_zero(bits));
      PutVarint(position - next);
      next = position + 1;
    }
  }
}

Status AccessTraceWriter::NoteLayer(uint32_t layer, std::span<const uint64_t> active, uint32_t num_tokens) {
  if (!status_) return status_;
  CHECK(layer < header_.num_layers && active.size() >= num_tokens * words_);
  const size_t token_words = header_.num_layers * words_;
  if (layer == 0) sets_.resize(num_tokens * token_words);
  CHECK(sets_.size() == num_tokens * token_words);
  for (uint32_t token = 0; token < num_tokens; ++token) {
    std::copy_n(active.data() + token * words_, words_, sets_.data() + token * token_words + layer * words_);
  }
  if (layer + 1 < header_.num_layers) return {};
  for (uint32_t token = 0; token < num_tokens; ++token) {
    buffer_.push_back(kTokenMark);
    for (uint32_t i = 0; i < header_.num_layers; ++i) {
      PutSet(sets_.data() + token * token_words + i * words_);
      if (buffer_.size() < kBufferBytes) continue;
      status_ = Flush();
      if (!status_) return status_;
    }
    ++num_tokens_;
  }
  return {};
}

Status AccessTraceWriter::Flush() {
  XXH3_64bits_update(hash_, buffer_.data(), buffer_.size());
  Status written = sink_(buffer_);
  buffer_.clear();
  return written;
}

Status AccessTraceWriter::Finish() {
  if (!status_) return status_;
  status_ = Flush();
  if (!status_) return status_;
  std::vector<std::byte> end = {kEndMark};
  Append(num_tokens_, end);
  Append(static_cast<uint64_t>(XXH3_64bits_digest(hash_)), end);
  status_ = sink_(end);
  return status_;
}

Result<AccessTrace> AccessTrace::Parse(std::span<const std::byte> bytes, const std::string& name) {
  AccessTrace trace;
  FRUGAL_ASSIGN(trace.header_, ParseHeader(bytes, name));
  const size_t end = bytes.size() - kEndBytes;
  if (bytes[end] != kEndMark)
    return BadModel("{}: offset {}: no end mark: the trace is incomplete", name, end);
  const uint64_t hash = XXH3_64bits(bytes.data(), end);
  if (LoadUnaligned<uint64_t>(bytes.data() + end + 9) != hash) {
    return BadModel("{}: its bytes do not match their hash: the trace is incomplete or damaged", name);
  }
  const uint32_t ffn_size = trace.header_.ffn_size;
  for (Cursor cursor(bytes, kHeaderBytes, end); !cursor.at_end();) {
    const size_t mark_at = cursor.at();
    if (cursor.Byte() != kTokenMark)
      return BadModel("{}: offset {}: expected the mark of a token", name, mark_at);
    for (uint32_t layer = 0; layer < trace.header_.num_layers; ++layer) {
      const size_t set_at = cursor.at();
      uint32_t count = 0, gap = 0;
      if (!cursor.ReadVarint(&count) || count > ffn_size) {
        return BadModel("{}: offset {}: number of bundles of layer {}: expected 0 to {}", name, set_at, layer,
                        ffn_size);
      }
      uint64_t next = 0;
      for (uint32_t i = 0; i < count; ++i) {
        const size_t gap_at = cursor.at();
        if (!cursor.ReadVarint(&gap) || next + gap >= ffn_size) {
          return BadModel("{}: offset {}: bundle {} of layer {}: expected a position below {}", name, gap_at,
                          i, layer, ffn_size);
        }
        trace.bundles_.push_back(layer * ffn_size + static_cast<uint32_t>(next + gap));
        next += gap + 1;
      }
      trace.begins_.push_back(trace.bundles_.size());
    }
  }
  if (LoadUnaligned<uint64_t>(bytes.data() + end + 1) != trace.num_tokens()) {
    return BadModel("{}: has {} tokens, its end says {}", name, trace.num_tokens(),
                    LoadUnaligned<uint64_t>(bytes.data() + end + 1));
  }
  return trace;
}

AccessTrace AccessTrace::FromSets(const TraceHeader& header,
                                  const std::vector<std::vector<std::vector<uint32_t>>>& tokens) {
  AccessTrace trace;
  trace.header_ = header;
  for (const auto& layers : tokens) {
    CHECK(layers.size() == header.num_layers);
    for (uint32_t layer = 0; layer < header.num_layers; ++layer) {
      for (const uint32_t position : layers[layer]) {
        CHECK(position < header.ffn_size);
        trace.bundles_.push_back(layer * header.ffn_size + position);
      }
      trace.begins_.push_back(trace.bundles_.size());
    }
  }
  return trace;
}

}  // namespace frugal
