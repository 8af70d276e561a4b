#include "src/cli/trace_file.h"

#include <algorithm>
#include <vector>

#include "src/base/bytes.h"
#include "src/format/byte_source.h"

namespace frugal {

// A trace holds the active sets of a whole batch: 2 MiB for so many rows at OPT-6.7B's size.
constexpr uint32_t kMostTracedRows = 32;

Status TraceFile::ReserveMemory(EngineOptions& options) {
  if (options.ram_bytes == 0) return {};
  FRUGAL_ASSIGN(const ModelFile model, ModelFile::Open(options.model_path, options.activation));
  FRUGAL_TRY(model.RequireBundles());
  const TraceHeader header = {0, model.config().num_layers, model.config().ffn_size};
  options.max_batch = std::max(std::min(options.max_batch, kMostTracedRows), options.logit_rows);
  const uint64_t needed_bytes = AccessTraceWriter::MemoryBytes(header, options.max_batch);
  if (needed_bytes >= options.ram_bytes) {
    return MakeError(ErrorCode::kDoesNotFit, "--trace takes {} of a budget of {}", FormatSize(needed_bytes),
                     FormatSize(options.ram_bytes));
  }
  options.ram_bytes -= needed_bytes;
  return {};
}

Result<std::unique_ptr<TraceFile>> TraceFile::Start(const std::string& path, Engine& engine) {
  auto trace = std::unique_ptr<TraceFile>(new TraceFile(engine));
  FRUGAL_ASSIGN(trace->file_, OutputFile::Open(path, Overwrite::kYes));
  TraceHeader header;
  header.model_content_hash = engine.weights().content_hash();
  header.num_layers = engine.config().num_layers;
  header.ffn_size = engine.config().ffn_size;
  TraceFile& self = *trace;
  trace->writer_ =
      std::make_unique<AccessTraceWriter>(header, [&self](std::span<const std::byte> bytes) -> Status {
        FRUGAL_TRY(self.file_->Write(self.offset_bytes_, bytes, "the access trace"));
        self.offset_bytes_ += bytes.size();
        return {};
      });
  engine.set_trace(trace->writer_.get());
  return trace;
}

TraceFile::~TraceFile() { engine_.set_trace(nullptr); }

Status TraceFile::Finish() {
  engine_.set_trace(nullptr);
  FRUGAL_TRY(writer_->Finish());
  return file_->Commit();
}

Result<AccessTrace> ReadTrace(const std::string& path) {
  FRUGAL_ASSIGN(const std::unique_ptr<ByteSource> source, OpenFileSource(path));
  if (source->size_bytes() > AccessTrace::kMaxBytes) {
    return BadModel("{}: has {}, a trace of at most {} can be read", path, FormatSize(source->size_bytes()),
                    FormatSize(AccessTrace::kMaxBytes));
  }
  std::vector<std::byte> bytes(source->size_bytes());
  FRUGAL_TRY(source->Read(0, bytes));
  return AccessTrace::Parse(bytes, path);
}

}  // namespace frugal
