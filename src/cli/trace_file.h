// The file of `--trace`: the bundles that every token demands, written while an engine runs
// (docs/trace.md). It appears under its name only when it is complete. Engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "src/cache/access_trace.h"
#include "src/engine/engine.h"
#include "src/format/output_file.h"

namespace frugal {

class TraceFile {
 public:
  // Takes what recording needs out of the budget, before the engine opens. Nothing without a budget.
  static Status ReserveMemory(EngineOptions& options);
  // Begins to record what the engine does; an existing file is replaced at Finish. The engine outlives this.
  static Result<std::unique_ptr<TraceFile>> Start(const std::string& path, Engine& engine);
  ~TraceFile();
  TraceFile(const TraceFile&) = delete;
  TraceFile& operator=(const TraceFile&) = delete;

  Status Finish();
  uint64_t num_tokens() const { return writer_->num_tokens(); }

 private:
  explicit TraceFile(Engine& engine) : engine_(engine) {}

  Engine& engine_;
  std::unique_ptr<OutputFile> file_;
  uint64_t offset_bytes_ = 0;
  std::unique_ptr<AccessTraceWriter> writer_;
};

// Reads a trace. kBadModel, kIo naming the file.
Result<AccessTrace> ReadTrace(const std::string& path);

}  // namespace frugal
