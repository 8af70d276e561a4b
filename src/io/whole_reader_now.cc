// WholeReader::ReadNow: the blocking read of one extent at any offset into any memory.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "src/io/whole_reader.h"
#include "src/io/whole_reader_slot.h"

namespace frugal {

struct WholeReader::NowRead {
  // A part that goes through the bounce buffer is copied from there when it has arrived.
  struct Part {
    bool in_use = false;
    bool bounced = false;
    uint64_t skip_bytes = 0;  // in the bounce piece, before the wanted ones
    std::byte* destination = nullptr;
    uint64_t size_bytes = 0;
  };

  const File* file = nullptr;
  uint64_t offset_bytes = 0;
  std::span<std::byte> destination;
  uint64_t started_bytes = 0;  // of the destination
  Part parts[kNowParts];       // part i uses slot capacity + i and bounce piece i
  size_t num_in_use = 0;
  std::optional<ReadFailure> failure;  // the one at the lowest offset
};

namespace {

bool IsAligned(const std::byte* address, uint64_t alignment) {
  return reinterpret_cast<uintptr_t>(address) % alignment == 0;
}

}  // namespace

// Starts the next part in a free slot; false when there is none.
bool WholeReader::StartPart(NowRead& now) {
  uint32_t i = 0;
  while (i < kNowParts && slots_[capacity_ + i].state != Slot::State::kFree) ++i;
  if (i == kNowParts) return false;
  const uint64_t alignment = now.file->alignment_bytes();
  const uint64_t begin = now.offset_bytes + now.started_bytes;
  const uint64_t left = now.destination.size() - now.started_bytes;
  NowRead::Part& part = now.parts[i];
  part = {true, false, 0, now.destination.data() + now.started_bytes, 0};
  iovec segment{};
  uint64_t read_offset = begin;
  if (begin % alignment == 0 && IsAligned(part.destination, alignment) && left >= alignment) {
    part.size_bytes = std::min(kNowPartBytes, RoundDown(left, alignment));
    segment = {part.destination, part.size_bytes};
  } else {
    part.bounced = true;
    read_offset = RoundDown(begin, alignment);
    part.skip_bytes = begin - read_offset;
    // Where offset and memory lie alike, one block of bounce makes the rest direct.
    const bool alike = IsAligned(part.destination - part.skip_bytes, alignment);
    const uint64_t most = alike ? alignment : kBouncePieceBytes;
    const uint64_t length = std::min(most, RoundUp(part.skip_bytes + left, alignment));
    part.size_bytes = std::min(left, length - part.skip_bytes);
    segment = {bounce_.data() + i * kBouncePieceBytes, length};
  }
  now.started_bytes += part.size_bytes;
  ++now.num_in_use;
  StartSlot(capacity_ + i, {now.file, read_offset, {&segment, 1}, 0});
  return true;
}

// Takes the parts that have arrived, failed or timed out.
void WholeReader::TakeParts(NowRead& now) {
  for (uint32_t i = 0; i < kNowParts; ++i) {
    NowRead::Part& part = now.parts[i];
    Slot& slot = slots_[capacity_ + i];
    if (!part.in_use || (slot.state != Slot::State::kFinished && !slot.abandoned)) continue;
    part.in_use = false;
    --now.num_in_use;
    if (slot.failed) {
      if (!now.failure || slot.failure.offset_bytes < now.failure->offset_bytes) now.failure = slot.failure;
    } else if (part.bounced) {
      std::memcpy(part.destination, bounce_.data() + i * kBouncePieceBytes + part.skip_bytes,
                  part.size_bytes);
    }
    slot.reported = true;
    if (!slot.abandoned) FreeSlot(capacity_ + i);
  }
}

Status WholeReader::NowError(const NowRead& now, std::string_view what) const {
  // In terms of the caller's read, not of the part that failed.
  ReadFailure failure = *now.failure;
  failure.got_bytes = failure.offset_bytes > now.offset_bytes ? failure.offset_bytes - now.offset_bytes : 0;
  failure.want_bytes = now.destination.size();
  // A changed file is the likelier reason for whatever the device said, and the one that a user can act on.
  if (Status unchanged = now.file->CheckUnchanged(); !unchanged) {
    return WithContext(unchanged.error(), fmt::format("{}: {}", what, DescribeFailure(failure)));
  }
  return MakeError(ErrorCode::kIo, "{}: {}", what, DescribeFailure(failure));
}

Status WholeReader::ReadNow(const File& file, uint64_t offset_bytes, std::span<std::byte> destination,
                            std::string_view what) {
  if (destination.empty()) return {};
  if (offset_bytes > file.size_bytes() || destination.size() > file.size_bytes() - offset_bytes) {
    return MakeError(ErrorCode::kIo, "{}: {} bytes at offset {} lie beyond the end of the file ({} bytes)",
                     what, destination.size(), offset_bytes, file.size_bytes());
  }
  NowRead now;
  now.file = &file;
  now.offset_bytes = offset_bytes;
  now.destination = destination;
  const uint64_t alignment = file.alignment_bytes();
  const bool needs_bounce = offset_bytes % alignment != 0 || destination.size() % alignment != 0 ||
                            !IsAligned(destination.data(), alignment);
  if (needs_bounce && bounce_.size_bytes() == 0) {
    CHECK(alignment <= kBouncePieceBytes);
    FRUGAL_ASSIGN(bounce_, AlignedBuffer::Allocate(kNowParts * kBouncePieceBytes));
  }
  while (now.num_in_use > 0 || (!now.failure && now.started_bytes < destination.size())) {
    while (!now.failure && now.started_bytes < destination.size() && StartPart(now)) {
    }
    if (now.num_in_use == 0) {  // every slot waits for a device that hangs
      now.failure =
          ReadFailure{ETIMEDOUT, offset_bytes + now.started_bytes, now.started_bytes, destination.size()};
      break;
    }
    Pump(UINT64_MAX);
    TakeParts(now);
  }
  return now.failure ? NowError(now, what) : Status{};
}

}  // namespace frugal
