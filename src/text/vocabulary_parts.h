// Steps that the readers of the Hugging Face files share: from lists of (token, id) to a Vocabulary by id.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/text/json_events.h"
#include "src/text/vocabulary.h"

namespace frugal {

// Sets tokens and kinds (kNormal, holes kUnused). Memory stays linear in the file: kBadModel when ids leave
// more holes than there are tokens, for two tokens with one id, for an empty token, for no tokens. Duplicate
// tokens are left to Tokenizer::Create.
Status PlaceTokens(std::vector<TokenizerDocument::Entry> entries, Vocabulary& vocabulary);

// Makes `token.id` an added token: new behind the vocabulary or in a hole, or already there with this
// content (in a SentencePiece file, of whatever kind). kBadModel when the id is another token's or far outside, or
// the content is empty. Adding it again is an error.
Status PlaceAddedToken(AddedToken token, Vocabulary& vocabulary);

// -1 if there is none.
int32_t FindTokenId(const Vocabulary& vocabulary, std::string_view token);

// Members of an object that may lack: `fallback` where it is absent or null; kBadModel ("KEY: expected a
// boolean") for another type.
Result<bool> BoolMember(const nlohmann::json& object, const char* key, bool fallback);
Result<std::string> StringMember(const nlohmann::json& object, const char* key, std::string_view fallback);
// nullptr where it is absent or null.
const nlohmann::json* Member(const nlohmann::json& object, const char* key);

// content, special, lstrip, rstrip, single_word, normalized of an added token's object.
Result<AddedToken> AddedTokenFromJson(const nlohmann::json& object);

// vocab.json + merges.txt without any special tokens.
Result<Vocabulary> ParsePlainVocabAndMerges(std::string_view vocab_json, std::string_view merges_txt,
                                            const std::string& name);

// What holds when no other file says anything: see vocabulary.h.
Status AddDefaultSpecialTokens(Vocabulary& vocabulary);

}  // namespace frugal
