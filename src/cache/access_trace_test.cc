#include "src/cache/access_trace.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "src/base/random.h"

namespace frugal {
namespace {

constexpr TraceHeader kHeader = {0x1234, 2, 130};
constexpr size_t kWords = 3;

AccessTraceWriter::Sink Into(std::vector<std::byte>* bytes) {
  return [bytes](std::span<const std::byte> part) -> Status {
    bytes->insert(bytes->end(), part.begin(), part.end());
    return {};
  };
}

// Sets of `num_tokens` tokens, written in steps of `batch`.
std::vector<std::byte> WriteTokens(uint32_t num_tokens, uint32_t batch,
                                   std::vector<std::vector<uint32_t>>* sets) {
  Random random(7);
  std::vector<std::byte> bytes;
  AccessTraceWriter writer(kHeader, Into(&bytes));
  for (uint32_t first = 0; first < num_tokens; first += batch) {
    std::vector<std::vector<uint64_t>> active(kHeader.num_layers, std::vector<uint64_t>(batch * kWords));
    for (uint32_t token = 0; token < batch; ++token) {
      for (uint32_t layer = 0; layer < kHeader.num_layers; ++layer) {
        sets->emplace_back();
        for (uint32_t i = 0; i < kHeader.ffn_size; ++i) {
          if (random.Below(4) != 0) continue;
          active[layer][token * kWords + i / 64] |= uint64_t{1} << (i % 64);
          sets->back().push_back(layer * kHeader.ffn_size + i);
        }
      }
    }
    for (uint32_t layer = 0; layer < kHeader.num_layers; ++layer) {
      EXPECT_TRUE(writer.NoteLayer(layer, active[layer], batch).has_value());
    }
  }
  EXPECT_TRUE(writer.Finish().has_value());
  EXPECT_EQ(writer.num_tokens(), num_tokens);
  return bytes;
}

std::string ErrorOf(std::span<const std::byte> bytes) {
  const Result<AccessTrace> trace = AccessTrace::Parse(bytes, "some.trace");
  if (trace) return "";
  EXPECT_EQ(trace.error().code, ErrorCode::kBadModel);
  EXPECT_NE(trace.error().message.find("some.trace"), std::string::npos);
  return trace.error().message;
}

TEST(AccessTraceTest, ReadsWhatWasWrittenWhateverTheBatch) {
  for (const uint32_t batch : {1u, 3u, 6u}) {
    std::vector<std::vector<uint32_t>> sets;
    const std::vector<std::byte> bytes = WriteTokens(6, batch, &sets);
    const Result<AccessTrace> trace = AccessTrace::Parse(bytes, "some.trace");
    ASSERT_TRUE(trace.has_value()) << trace.error().message;
    EXPECT_EQ(trace->header().model_content_hash, kHeader.model_content_hash);
    ASSERT_EQ(trace->num_tokens(), 6u);
    for (size_t token = 0; token < 6; ++token) {
      for (uint32_t layer = 0; layer < 2; ++layer) {
        const auto set = trace->Set(token, layer);
        EXPECT_EQ(std::vector<uint32_t>(set.begin(), set.end()), sets[token * 2 + layer]);
      }
    }
  }
}

TEST(AccessTraceTest, RefusesWhatIsCutShortAnywhere) {
  std::vector<std::vector<uint32_t>> sets;
  const std::vector<std::byte> bytes = WriteTokens(2, 1, &sets);
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_NE(ErrorOf(std::span(bytes).first(size)), "") << size;
}

TEST(AccessTraceTest, RefusesAFlippedByteAnywhere) {
  std::vector<std::vector<uint32_t>> sets;
  std::vector<std::byte> bytes = WriteTokens(2, 1, &sets);
  for (std::byte& byte : bytes) {
    byte ^= std::byte{0x10};
    EXPECT_NE(ErrorOf(bytes), "");
    byte ^= std::byte{0x10};
  }
  EXPECT_EQ(ErrorOf(bytes), "");
}

TEST(AccessTraceTest, NamesWhatIsWrongInTheHeader) {
  std::vector<std::vector<uint32_t>> sets;
  std::vector<std::byte> bytes = WriteTokens(1, 1, &sets);
  std::vector<std::byte> other = bytes;
  other[0] = std::byte{'X'};
  EXPECT_NE(ErrorOf(other).find("no access trace"), std::string::npos);
  other = bytes;
  other[8] = std::byte{9};
  EXPECT_NE(ErrorOf(other).find("version 9"), std::string::npos);
  other = bytes;
  other[12] = std::byte{0};
  EXPECT_NE(ErrorOf(other).find("0 layers"), std::string::npos);
  other = bytes;
  other[19] = std::byte{0x7f};
  EXPECT_NE(ErrorOf(other).find("bundles in each of 2 layers"), std::string::npos);
}

TEST(AccessTraceTest, RepeatsTheErrorOfItsSink) {
  AccessTraceWriter writer(kHeader, [](std::span<const std::byte>) -> Status {
    return MakeError(ErrorCode::kIo, "the disk is full");
  });
  EXPECT_EQ(writer.Finish().error().message, "the disk is full");
  const std::vector<uint64_t> active(kWords);
  EXPECT_EQ(writer.NoteLayer(0, active, 1).error().code, ErrorCode::kIo);
}

}  // namespace
}  // namespace frugal
