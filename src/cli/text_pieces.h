// A text as token ids in pieces, for perplexity: stories are read one at a time, each is encoded with the
// tokenizer's special tokens (for OPT </s> in front), the ids of all stories follow each other and are cut
// into pieces of one size, whatever the story. So neither the text nor its ids lie in memory as a whole. One
// thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace frugal {

// The bytes of a file; of a name ending in .xz, what `xz -dc` makes of it (a process of its own, whose memory
// is outside any budget).
class TextStream {
 public:
  // kIo when it cannot be opened; kFailed when the program xz is missing.
  static Result<TextStream> Open(const std::string& path);
  TextStream(TextStream&& other) noexcept;
  TextStream& operator=(TextStream&&) = delete;
  ~TextStream();

  // One line without its end; false after the last one. kBadModel for a line above kMaxStoryBytes, kIo when
  // reading or xz failed.
  Result<bool> ReadLine(std::string* line);

  static constexpr uint64_t kMaxStoryBytes = uint64_t{64} << 20;

 private:
  TextStream() = default;
  Status Fill();
  Status Finish();

  std::string path_;
  UniqueFd fd_;
  pid_t child_ = -1;
  std::string buffer_;
  size_t at_ = 0;
  bool ended_ = false;
};

// Stories: what stands between lines that are equal to the separator, without white space around it and ended
// by one newline; empty ones are left out. Without such a line (or with an empty separator) the whole text is
// one story. This reading of tale's validation text gives the ids of its reference perplexity (37.0244).
class StoryReader {
 public:
  static Result<StoryReader> Open(const std::string& path, std::string separator);
  // False after the last one. kUsage for a story above kMaxStoryBytes.
  Result<bool> Next(std::string* story);

 private:
  StoryReader(TextStream stream, std::string path, std::string separator)
      : stream_(std::move(stream)), path_(std::move(path)), separator_(std::move(separator)) {}

  TextStream stream_;
  std::string path_;
  std::string separator_;
};

struct TextSize {
  uint64_t num_stories = 0;
  uint64_t longest_story_bytes = 0;
};
// Reads the text once and keeps nothing.
Result<TextSize> MeasureText(const std::string& path, const std::string& separator);

// What a reader of pieces holds at most: a story, its ids, its line and buffers.
uint64_t TextMemoryBytes(const TextSize& size, uint32_t piece_size);

using EncodeFunction = std::function<Result<std::vector<int32_t>>(const std::string& story)>;

// Ids from a text or from a list, cut into pieces.
class PieceReader {
 public:
  // max_tokens: of the whole text; 0: all.
  static Result<PieceReader> FromText(const std::string& path, const std::string& separator,
                                      EncodeFunction encode, uint32_t piece_size, uint64_t max_tokens);
  static PieceReader FromIds(std::vector<int32_t> ids, uint32_t piece_size, uint64_t max_tokens);
  // False when there is nothing left; the last piece may be shorter.
  Result<bool> Next(std::vector<int32_t>* piece);

 private:
  std::unique_ptr<StoryReader> stories_;  // null: all ids are in ids_
  EncodeFunction encode_;
  uint32_t piece_size_ = 0;
  uint64_t left_ = 0;  // of max_tokens
  std::vector<int32_t> ids_;
  size_t at_ = 0;
};

// Token ids parted by commas or line ends; at least one. kUsage naming the place of what is no id.
Result<std::vector<int32_t>> ReadIdsFile(const std::string& path);

}  // namespace frugal
