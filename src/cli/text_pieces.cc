#include "src/cli/text_pieces.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <string_view>

#include "src/base/bytes.h"
#include "src/cli/common.h"
#include "src/format/json_file.h"

extern char** environ;

namespace frugal {
namespace {

constexpr size_t kBufferBytes = 64 * kKiB;
constexpr uint64_t kMostIdsFileBytes = 16 * kMiB;
constexpr std::string_view kWhiteSpace = " \t\r\n";

// Starts `xz -dc` on the open file; its output is the pipe's other end.
Result<pid_t> StartXz(const std::string& path, int input, UniqueFd* output) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return MakeError(ErrorCode::kFailed, "{}: no pipe for xz: {}", path, ErrnoText(errno));
  *output = UniqueFd(ends[0]);
  const UniqueFd write_end(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, write_end.get(), STDOUT_FILENO);
  char name[] = "xz", decompress[] = "-dc";
  char* arguments[] = {name, decompress, nullptr};
  pid_t child = -1;
  const int error = posix_spawnp(&child, name, &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return MakeError(ErrorCode::kFailed,
                     "{}: needs the program xz to be read ({}): install xz-utils, or unpack the file", path,
                     ErrnoText(error));
  }
  return child;
}

void Trim(std::string* text) {
  text->resize(text->find_last_not_of(kWhiteSpace) + 1);
  text->erase(0, std::min(text->size(), text->find_first_not_of(kWhiteSpace)));
}

}  // namespace

Result<TextStream> TextStream::Open(const std::string& path) {
  TextStream stream;
  stream.path_ = path;
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return MakeError(ErrorCode::kIo, "{}: {}", path, ErrnoText(errno));
  if (!path.ends_with(".xz")) {
    stream.fd_ = std::move(fd);
  } else {
    FRUGAL_ASSIGN(stream.child_, StartXz(path, fd.get(), &stream.fd_));
  }
  return stream;
}

TextStream::TextStream(TextStream&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::move(other.fd_)),
      child_(std::exchange(other.child_, -1)),
      buffer_(std::move(other.buffer_)),
      at_(other.at_),
      ended_(other.ended_) {}

TextStream::~TextStream() {
  if (child_ <= 0) return;
  // What is not read to its end: xz would block on the full pipe.
  fd_.Reset();
  kill(child_, SIGTERM);
  while (waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

Status TextStream::Fill() {
  buffer_.erase(0, at_);
  at_ = 0;
  const size_t old_size = buffer_.size();
  buffer_.resize(old_size + kBufferBytes);
  ssize_t got = -1;
  do {
    got = read(fd_.get(), buffer_.data() + old_size, kBufferBytes);
  } while (got < 0 && errno == EINTR);
  const int error = errno;
  buffer_.resize(old_size + static_cast<size_t>(std::max<ssize_t>(got, 0)));
  if (got < 0) return MakeError(ErrorCode::kIo, "{}: {}", path_, ErrnoText(error));
  if (got == 0) return Finish();
  return {};
}

Status TextStream::Finish() {
  ended_ = true;
  if (child_ <= 0) return {};
  int status = 0;
  while (waitpid(child_, &status, 0) < 0 && errno == EINTR) {
  }
  child_ = -1;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return MakeError(ErrorCode::kIo, "{}: xz could not unpack it", path_);
}

Result<bool> TextStream::ReadLine(std::string* line) {
  line->clear();
  size_t searched = at_;
  while (true) {
    const size_t end = buffer_.find('\n', searched);
    if (end != std::string::npos) {
      line->assign(buffer_, at_, end - at_);
      at_ = end + 1;
      return true;
    }
    if (ended_) {
      line->assign(buffer_, at_);
      at_ = buffer_.size();
      return !line->empty();
    }
    if (buffer_.size() - at_ > kMaxStoryBytes) {
      return MakeError(ErrorCode::kUsage, "{}: a line of more than {}", path_, FormatSize(kMaxStoryBytes));
    }
    searched = buffer_.size() - at_;
    FRUGAL_TRY(Fill());
  }
}

Result<StoryReader> StoryReader::Open(const std::string& path, std::string separator) {
  FRUGAL_ASSIGN(TextStream stream, TextStream::Open(path));
  return StoryReader(std::move(stream), path, std::move(separator));
}

Result<bool> StoryReader::Next(std::string* story) {
  std::string line;
  while (true) {
    story->clear();
    bool more = true;
    while (true) {
      FRUGAL_ASSIGN(more, stream_.ReadLine(&line));
      if (!more) break;
      if (line.ends_with('\r')) line.pop_back();
      if (!separator_.empty() && line == separator_) break;
      if (story->size() + line.size() >= TextStream::kMaxStoryBytes) {
        return MakeError(ErrorCode::kUsage, "{}: a story of more than {} (parted by lines \"{}\")", path_,
                         FormatSize(TextStream::kMaxStoryBytes), separator_);
      }
      story->append(line).push_back('\n');
    }
    Trim(story);
    if (!story->empty()) {
      story->push_back('\n');
      return true;
    }
    if (!more) return false;
  }
}

Result<TextSize> MeasureText(const std::string& path, const std::string& separator) {
  FRUGAL_ASSIGN(StoryReader stories, StoryReader::Open(path, separator));
  TextSize size;
  std::string story;
  while (true) {
    FRUGAL_ASSIGN(const bool more, stories.Next(&story));
    if (!more) return size;
    ++size.num_stories;
    size.longest_story_bytes = std::max<uint64_t>(size.longest_story_bytes, story.size());
  }
}

uint64_t TextMemoryBytes(const TextSize& size, uint32_t piece_size) {
  // A story and a line of it may grow to twice their size; a token is a byte at least; the tokenizer's
  // longest word is far below.
  return size.longest_story_bytes * (2 + 2 + 2 * sizeof(int32_t)) + 2 * kBufferBytes +
         piece_size * 2 * sizeof(int32_t);
}

Result<PieceReader> PieceReader::FromText(const std::string& path, const std::string& separator,
                                          EncodeFunction encode, uint32_t piece_size, uint64_t max_tokens) {
  PieceReader reader;
  FRUGAL_ASSIGN(StoryReader stories, StoryReader::Open(path, separator));
  reader.stories_ = std::make_unique<StoryReader>(std::move(stories));
  reader.encode_ = std::move(encode);
  reader.piece_size_ = piece_size;
  reader.left_ = max_tokens == 0 ? std::numeric_limits<uint64_t>::max() : max_tokens;
  return reader;
}

PieceReader PieceReader::FromIds(std::vector<int32_t> ids, uint32_t piece_size, uint64_t max_tokens) {
  PieceReader reader;
  reader.ids_ = std::move(ids);
  reader.piece_size_ = piece_size;
  reader.left_ = max_tokens == 0 ? std::numeric_limits<uint64_t>::max() : max_tokens;
  return reader;
}

Result<bool> PieceReader::Next(std::vector<int32_t>* piece) {
  piece->clear();
  const uint64_t wanted = std::min<uint64_t>(piece_size_, left_);
  while (piece->size() < wanted) {
    if (at_ == ids_.size()) {
      if (stories_ == nullptr) break;
      std::string story;
      FRUGAL_ASSIGN(const bool more, stories_->Next(&story));
      if (!more) break;
      FRUGAL_ASSIGN(ids_, encode_(story));
      at_ = 0;
      continue;
    }
    const size_t count = std::min<size_t>(wanted - piece->size(), ids_.size() - at_);
    piece->insert(piece->end(), ids_.begin() + static_cast<std::ptrdiff_t>(at_),
                  ids_.begin() + static_cast<std::ptrdiff_t>(at_ + count));
    at_ += count;
  }
  left_ -= piece->size();
  return !piece->empty();
}

Result<std::vector<int32_t>> ReadIdsFile(const std::string& path) {
  FRUGAL_ASSIGN(std::string text, ReadTextFile(path, kMostIdsFileBytes));
  std::replace(text.begin(), text.end(), '\n', ',');
  std::erase(text, '\r');
  while (text.ends_with(',')) text.pop_back();
  return ParseIds(text);
}

}  // namespace frugal
