#include "src/engine/tokenizer_load.h"

#include <malloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "src/engine/vocabulary_load.h"
#include "src/text/vocabulary.h"

namespace frugal {
namespace {

// Of the files that a tokenizer may be made of, as ReadHuggingFaceVocabulary knows them.
uint64_t FileBytes(const std::string& directory) {
  uint64_t size_bytes = 0;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "gpt2-vocab.json", "gpt2-merges.txt",
                           "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}) {
    struct stat status = {};
    if (stat((directory + "/" + name).c_str(), &status) == 0) size_bytes += static_cast<uint64_t>(status.st_size);
  }
  return size_bytes;
}

// Of files that are not to be read: what the lists of the shortest tokens take.
constexpr uint64_t kMostBytesPerFileByte = 14;

TokenizerBytes BytesOf(const Vocabulary& vocabulary, uint64_t file_bytes) {
  uint64_t token_bytes = 0;
  for (const std::string& token : vocabulary.tokens) token_bytes += token.size();
  const uint64_t num_tokens = vocabulary.tokens.size(), num_merges = vocabulary.merges.size();
  const uint64_t num_added = std::max<uint64_t>(vocabulary.added_tokens.size(), Tokenizer::kUsualAddedTokens);
  TokenizerBytes bytes;
  bytes.held = Tokenizer::EstimateMemoryBytes(num_tokens, num_merges, token_bytes, num_added, vocabulary);
  // The files as text, and what is parsed of them. While a list grows, its elements are there twice.
  constexpr uint64_t kGrowth = 2, kEntryBytes = 48;
  bytes.reading = 2 * file_bytes + kGrowth * (num_tokens * kEntryBytes + num_merges * sizeof(std::string));
  return bytes;
}

// What was freed goes back to the system: weights take its place.
void TrimHeap() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

Result<Vocabulary> ReadVocabulary(const ModelFile& model) {
  FRUGAL_ASSIGN(Vocabulary vocabulary, ReadHuggingFaceVocabulary(model.checkpoint_directory()));
  if (vocabulary.tokens.size() > model.config().vocab_size) {
    return BadModel("{}: the tokenizer has {} tokens, but vocab_size in config.json is {}", model.checkpoint_directory(),
                    vocabulary.tokens.size(), model.config().vocab_size);
  }
  return vocabulary;
}

// ReadHuggingFaceVocabulary's "there is none".
bool IsAbsent(const Error& error) { return error.code == ErrorCode::kFailed; }

}  // namespace

Result<bool> HasTokenizer(const ModelFile& model) {
  if (!model.is_checkpoint()) return HasTokenizer(model.gguf());
  const Result<Vocabulary> vocabulary = ReadVocabulary(model);
  if (!vocabulary && !IsAbsent(vocabulary.error())) return vocabulary.error();
  return vocabulary.has_value();
}

Result<Tokenizer> LoadTokenizer(const ModelFile& model) {
  if (!model.is_checkpoint()) return LoadTokenizer(model.gguf());
  Result<Tokenizer> tokenizer = [&]() -> Result<Tokenizer> {
    FRUGAL_ASSIGN(const Vocabulary vocabulary, ReadVocabulary(model));
    return Tokenizer::Create(vocabulary, model.checkpoint_directory());
  }();
  TrimHeap();
  return tokenizer;
}

Result<TokenizerHeader> ReadTokenizerHeader(const ModelFile& model, uint64_t ram_bytes) {
  TokenizerHeader header{{}, model.config().bos_id, model.config().eos_id};
  if (!model.is_checkpoint()) {
    FRUGAL_ASSIGN(const bool has_tokenizer, HasTokenizer(model.gguf()));
    if (has_tokenizer) {
      FRUGAL_ASSIGN(header.bytes.held, EstimateTokenizerBytes(model.gguf()));
    }
    return header;
  }
  const uint64_t file_bytes = FileBytes(model.checkpoint_directory());
  if (ram_bytes != 0 && file_bytes > ram_bytes / kMostBytesPerFileByte) {
    header.bytes.held = file_bytes * kMostBytesPerFileByte;
    return header;
  }
  const Result<Vocabulary> vocabulary = ReadVocabulary(model);
  if (!vocabulary && IsAbsent(vocabulary.error())) return header;
  if (!vocabulary) return vocabulary.error();
  header.bytes = BytesOf(*vocabulary, file_bytes);
  header.bos_id = vocabulary->bos_id;
  header.eos_id = vocabulary->eos_id;
  return header;
}

}  // namespace frugal
