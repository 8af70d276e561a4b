#include "src/format/npy_writer.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <string_view>
#include <utility>

#include "src/base/bytes.h"

namespace frugal {
namespace {

// The header's length must be a multiple of 64. 128 bytes hold any two numbers, so that the number of rows
// can be written over later; more dimensions take the next multiple.
constexpr uint64_t kMinHeaderBytes = 128;
constexpr uint64_t kHeaderMultipleBytes = 64;

std::string MakeHeader(std::span<const uint64_t> shape) {
  // A tuple of one needs its comma: "(3,)".
  const std::string text = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}{}), }}",
                                       fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  constexpr std::string_view kMagicAndVersion("\x93NUMPY\x01\x00", 8);
  const uint64_t prefix_bytes = kMagicAndVersion.size() + sizeof(uint16_t);
  const uint64_t total_bytes =
      std::max(kMinHeaderBytes, RoundUp(prefix_bytes + text.size() + 1, kHeaderMultipleBytes));
  CHECK(total_bytes - prefix_bytes <= UINT16_MAX);
  std::string header(kMagicAndVersion);
  const auto length = static_cast<uint16_t>(total_bytes - prefix_bytes);
  header += static_cast<char>(length & 0xff);
  header += static_cast<char>(length >> 8);
  header += text;
  header.resize(total_bytes - 1, ' ');
  return header + '\n';
}

Status WriteHeader(OutputFile& file, std::span<const uint64_t> shape) {
  const std::string header = MakeHeader(shape);
  return file.Write(0, std::as_bytes(std::span(header)), "header");
}

}  // namespace

Status WriteNpyFloat32(const std::string& path, std::span<const float> data,
                       std::span<const uint64_t> shape) {
  CHECK(std::accumulate(shape.begin(), shape.end(), uint64_t{1}, std::multiplies<>()) == data.size());
  FRUGAL_ASSIGN(const std::unique_ptr<OutputFile> file, OutputFile::Open(path, Overwrite::kYes));
  const uint64_t header_bytes = MakeHeader(shape).size();
  FRUGAL_TRY(file->Reserve(header_bytes + data.size_bytes()));
  FRUGAL_TRY(WriteHeader(*file, shape));
  FRUGAL_TRY(file->Write(header_bytes, std::as_bytes(data), "data"));
  return file->Commit();
}

Result<NpyWriter> NpyWriter::Open(const std::string& path, uint64_t columns) {
  NpyWriter writer;
  FRUGAL_ASSIGN(writer.file_, OutputFile::Open(path, Overwrite::kYes));
  writer.columns_ = columns;
  return writer;
}

Status NpyWriter::AppendRow(std::span<const float> row) {
  CHECK(row.size() == columns_);
  FRUGAL_TRY(file_->Write(kMinHeaderBytes + num_rows_ * row.size_bytes(), std::as_bytes(row), "data"));
  ++num_rows_;
  return {};
}

Status NpyWriter::Finish() {
  const uint64_t shape[] = {num_rows_, columns_};
  FRUGAL_TRY(WriteHeader(*file_, shape));
  return file_->Commit();
}

}  // namespace frugal
