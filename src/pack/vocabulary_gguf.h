// A vocabulary as keys of a GGUF. src/engine/vocabulary_load.h reads them.
#pragma once

#include "src/format/gguf_writer.h"
#include "src/text/vocabulary.h"

namespace frugal {

// tokens and kinds have the same length. What GGUF cannot hold is reported by BeginData.
void AddVocabularyKeys(const Vocabulary& vocabulary, GgufWriter& writer);

}  // namespace frugal
