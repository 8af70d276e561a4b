// The keys of a GGUF that hold a tokenizer: what pack writes and the engine reads. Those of GGUF itself, and
// what Hugging Face's tokenizers know beyond them; a file without the latter still gives a tokenizer.
#pragma once

namespace frugal::tokenizer_keys {

constexpr const char* kModel = "tokenizer.ggml.model";
constexpr const char* kPre = "tokenizer.ggml.pre";
constexpr const char* kTokens = "tokenizer.ggml.tokens";          // strings, by id
constexpr const char* kTokenTypes = "tokenizer.ggml.token_type";  // i32, by id: TokenKind
constexpr const char* kScores = "tokenizer.ggml.scores";          // f32, by id
constexpr const char* kMerges = "tokenizer.ggml.merges";          // strings "left right", by rank
constexpr const char* kBosId = "tokenizer.ggml.bos_token_id";
constexpr const char* kEosId = "tokenizer.ggml.eos_token_id";
constexpr const char* kPadId = "tokenizer.ggml.padding_token_id";
constexpr const char* kUnkId = "tokenizer.ggml.unknown_token_id";
constexpr const char* kAddBos = "tokenizer.ggml.add_bos_token";
constexpr const char* kAddEos = "tokenizer.ggml.add_eos_token";
constexpr const char* kSpacePrefix = "tokenizer.ggml.add_space_prefix";
constexpr const char* kRemoveSpaces = "tokenizer.ggml.remove_extra_whitespaces";
constexpr const char* kCharsmap = "tokenizer.ggml.precompiled_charsmap";

constexpr const char* kPrefixIds = "frugal.tokenizer.prefix_ids";  // i32
constexpr const char* kSuffixIds = "frugal.tokenizer.suffix_ids";  // i32
constexpr const char* kAddPrefixSpace = "frugal.tokenizer.add_prefix_space";
constexpr const char* kUseRegex = "frugal.tokenizer.use_regex";
constexpr const char* kIgnoreMerges = "frugal.tokenizer.ignore_merges";
constexpr const char* kByteFallback = "frugal.tokenizer.byte_fallback";
constexpr const char* kSentencePiece = "frugal.tokenizer.sentencepiece";
constexpr const char* kPipeline = "frugal.tokenizer.pipeline";  // JSON: ParsePipeline (src/text/pipeline.h)
// Two i32 for each token, the low half of a double and the high one: scores that are no f32.
constexpr const char* kScoreBits = "frugal.tokenizer.score_bits";
// Three arrays of the same length, one entry for each added token.
constexpr const char* kAddedIds = "frugal.tokenizer.added_ids";            // i32
constexpr const char* kAddedContents = "frugal.tokenizer.added_contents";  // strings, plain text
constexpr const char* kAddedFlags = "frugal.tokenizer.added_flags";        // i32: AddedTokenFlags

}  // namespace frugal::tokenizer_keys
