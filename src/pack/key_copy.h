// A key of one GGUF file into another one.
#pragma once

#include "src/base/result.h"
#include "src/format/gguf_reader.h"
#include "src/format/gguf_writer.h"

namespace frugal {

// kBadModel for a key of a type that no packed file has.
Status CopyGgufKey(const GgufReader& gguf, const GgufKeyValue& entry, GgufWriter& keys);

}  // namespace frugal
