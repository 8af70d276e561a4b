// Readers of a tokenizer.json's components, shared by those of the whole file and of a packed model's key.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/text/pipeline.h"

namespace frugal {

// GPT-2's words (Radford et al. 2019, encoder.py).
constexpr char kGpt2Words[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// See ParsePipeline.
Result<Pipeline> PipelineFromJson(const nlohmann::json& document);

// What a ByteLevel pre-tokenizer does.
void AppendByteLevel(bool add_prefix_space, bool use_regex, std::vector<TextStep>& steps);

// The member "type" of a component; kBadModel when it is no object, or no name.
Result<std::string> PartType(const nlohmann::json& component, const char* part);
// The list KEY of a component of type Sequence; a component of another type is its own only element.
Result<std::vector<const nlohmann::json*>> PartElements(const nlohmann::json& component, const char* part,
                                                        const char* key);
// "decoder type WordPiece is not supported".
Error UnsupportedPart(std::string_view part, std::string_view type);

}  // namespace frugal
