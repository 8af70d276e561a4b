// A Hugging Face directory: which files there are, and what they say of special tokens (transformers'
// PreTrainedTokenizer; config.json's ids where no tokenizer file names a token).
#include <array>
#include <optional>
#include <string>

#include "src/text/text_file.h"
#include "src/text/utf8.h"
#include "src/text/vocabulary_parts.h"

namespace frugal {
namespace {

using nlohmann::json;

// A token named by a configuration, and where its id belongs.
struct Role {
  const char* token_key;
  const char* id_key;
  int32_t Vocabulary::*id;
};
constexpr std::array<Role, 4> kRoles = {{{"bos_token", "bos_token_id", &Vocabulary::bos_id},
                                         {"eos_token", "eos_token_id", &Vocabulary::eos_id},
                                         {"unk_token", "unk_token_id", &Vocabulary::unk_id},
                                         {"pad_token", "pad_token_id", &Vocabulary::pad_id}}};

struct Config {
  std::string path;
  json object = json::object();
};

struct Configs {
  Config tokenizer;       // tokenizer_config.json
  Config special_tokens;  // special_tokens_map.json
  Config added_tokens;    // added_tokens.json: content -> id
  Config model;           // config.json
};

Result<Config> ReadConfig(const std::string& path) {
  Config config{path};
  FRUGAL_ASSIGN(const std::optional<std::string> text, ReadTokenizerFile(path));
  if (!text) return config;
  FRUGAL_ASSIGN(TokenizerDocument document,
                ParseTokenizerDocument(*text, TokenizerDocumentKind::kPlain, path));
  config.object = std::move(document.rest);
  return config;
}

Result<Configs> ReadConfigs(const std::string& directory) {
  Configs configs;
  FRUGAL_ASSIGN(configs.tokenizer, ReadConfig(directory + "/tokenizer_config.json"));
  FRUGAL_ASSIGN(configs.special_tokens, ReadConfig(directory + "/special_tokens_map.json"));
  FRUGAL_ASSIGN(configs.added_tokens, ReadConfig(directory + "/added_tokens.json"));
  FRUGAL_ASSIGN(configs.model, ReadConfig(directory + "/config.json"));
  return configs;
}

// A special token is written as "text" or as an object with "content".
Result<AddedToken> SpecialToken(const json& value) {
  if (!value.is_string()) {
    FRUGAL_ASSIGN(AddedToken token, AddedTokenFromJson(value));
    token.special = true;
    return token;
  }
  return MakeAddedToken(-1, value.get<std::string>(), /*special*/ 1);
}

bool IsAdded(const Vocabulary& vocabulary, int32_t id) {
  const TokenKind kind = vocabulary.kinds[static_cast<size_t>(id)];
  return kind == TokenKind::kControl || kind == TokenKind::kUserDefined || kind == TokenKind::kUnknown;
}

// bos_id, eos_id, ... from the tokenizer's files, then from the model's. With kAdd the tokens become added
// tokens.
enum class Roles { kOnlyIds, kAdd };

Status ReadNamedRoles(const Config& config, Roles roles, Vocabulary& vocabulary) {
  for (const Role& role : kRoles) {
    const json* value = Member(config.object, role.token_key);
    if (value == nullptr || vocabulary.*role.id >= 0) continue;
    Result<AddedToken> token = SpecialToken(*value);
    if (!token) return WithContext(std::move(token).error(), config.path + ": " + role.token_key);
    token->id = FindTokenId(vocabulary, token->content);
    // A tokenizer.json is complete: a name that it does not know is of no use to anyone.
    if (token->id < 0 && roles == Roles::kOnlyIds) continue;
    if (token->id < 0) {
      return BadModel("{}: {} {} is not in the vocabulary", config.path, role.token_key,
                      Quoted(token->content));
    }
    vocabulary.*role.id = token->id;
    if (roles == Roles::kOnlyIds || IsAdded(vocabulary, token->id)) continue;
    if (Status status = PlaceAddedToken(*std::move(token), vocabulary); !status) {
      return WithContext(std::move(status).error(), config.path);
    }
  }
  return {};
}

Status ReadModelIds(const Config& config, Roles roles, Vocabulary& vocabulary) {
  for (const Role& role : kRoles) {
    const json* value = Member(config.object, role.id_key);
    if (value != nullptr && value->is_array() && !value->empty()) value = &value->front();
    if (value == nullptr || vocabulary.*role.id >= 0) continue;
    if (value->is_number_integer() && *value == -1) continue;  // some configurations write "none" so
    const bool in_vocabulary = value->is_number_unsigned() &&
                               value->get<uint64_t>() < vocabulary.tokens.size() &&
                               vocabulary.kinds[value->get<size_t>()] != TokenKind::kUnused;
    if (!in_vocabulary) {
      return BadModel("{}: {}: expected an id in the vocabulary of {} tokens", config.path, role.id_key,
                      vocabulary.tokens.size());
    }
    const int32_t id = value->get<int32_t>();
    vocabulary.*role.id = id;
    if (roles == Roles::kOnlyIds || IsAdded(vocabulary, id)) continue;
    FRUGAL_TRY(PlaceAddedToken(MakeAddedToken(id, vocabulary.tokens[static_cast<size_t>(id)], /*special*/ 1),
                               vocabulary));
  }
  return {};
}

std::optional<int32_t> ParseId(const std::string& text) {
  if (text.empty() || text.size() > 9) return std::nullopt;
  int32_t id = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    id = id * 10 + (c - '0');
  }
  return id;
}

// added_tokens_decoder of tokenizer_config.json: {"50256": {"content": ..., flags}}; added_tokens.json:
// {"content": id}.
Status ReadAddedTokens(const Configs& configs, Vocabulary& vocabulary) {
  if (const json* list = Member(configs.tokenizer.object, "added_tokens_decoder")) {
    if (!list->is_object())
      return BadModel("{}: added_tokens_decoder: expected an object", configs.tokenizer.path);
    for (const auto& [key, value] : list->items()) {
      Result<AddedToken> token = AddedTokenFromJson(value);
      const std::optional<int32_t> id = ParseId(key);
      if (!id) return BadModel("{}: added_tokens_decoder: {} is no id", configs.tokenizer.path, Quoted(key));
      if (!token) {
        return WithContext(std::move(token).error(),
                           configs.tokenizer.path + ": added_tokens_decoder: " + key);
      }
      token->id = *id;
      if (Status status = PlaceAddedToken(*std::move(token), vocabulary); !status) {
        return WithContext(std::move(status).error(), configs.tokenizer.path);
      }
    }
  }
  for (const auto& [content, id] : configs.added_tokens.object.items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
      return BadModel("{}: {}: expected an id of 0 to 2147483647", configs.added_tokens.path,
                      Quoted(content));
    }
    if (FindTokenId(vocabulary, content) == id.get<int32_t>() && IsAdded(vocabulary, id.get<int32_t>()))
      continue;
    if (Status status = PlaceAddedToken(MakeAddedToken(id.get<int32_t>(), content, 0), vocabulary); !status) {
      return WithContext(std::move(status).error(), configs.added_tokens.path);
    }
  }
  return {};
}

Status ReadRoles(const Configs& configs, Roles roles, Vocabulary& vocabulary) {
  FRUGAL_TRY(ReadNamedRoles(configs.tokenizer, roles, vocabulary));
  FRUGAL_TRY(ReadNamedRoles(configs.special_tokens, roles, vocabulary));
  return ReadModelIds(configs.model, roles, vocabulary);
}

// What transformers does with a tokenizer.model: its added tokens are cut out of a raw text, and add_bos_token and add_eos_token
// (true and false where nothing is said) put tokens around it.
Result<Vocabulary> FromSentencePiece(const std::string& text, const Configs& configs, const std::string& name) {
  FRUGAL_ASSIGN(Vocabulary vocabulary, ParseSentencePiece(text, name));
  FRUGAL_TRY(ReadAddedTokens(configs, vocabulary));
  const int32_t unknown_id = vocabulary.unk_id;
  FRUGAL_TRY(ReadRoles(configs, Roles::kOnlyIds, vocabulary));
  vocabulary.unk_id = unknown_id;
  const auto finish = [&]() -> Status {
    FRUGAL_ASSIGN(const bool add_bos, BoolMember(configs.tokenizer.object, "add_bos_token", vocabulary.bos_id >= 0));
    FRUGAL_ASSIGN(const bool add_eos, BoolMember(configs.tokenizer.object, "add_eos_token", false));
    if (add_bos && vocabulary.bos_id < 0) return BadModel("add_bos_token: there is no bos_token");
    if (add_eos && vocabulary.eos_id < 0) return BadModel("add_eos_token: there is no eos_token");
    vocabulary.prefix_ids.clear();
    if (add_bos) vocabulary.prefix_ids = {vocabulary.bos_id};
    if (add_eos) vocabulary.suffix_ids = {vocabulary.eos_id};
    return {};
  };
  if (Status status = finish(); !status)
    return WithContext(std::move(status).error(), configs.tokenizer.path);
  return vocabulary;
}

Result<Vocabulary> FromVocabAndMerges(const std::string& vocab_json, const std::string& merges_txt,
                                      const Configs& configs, const std::string& name) {
  FRUGAL_ASSIGN(Vocabulary vocabulary, ParsePlainVocabAndMerges(vocab_json, merges_txt, name));
  FRUGAL_TRY(ReadAddedTokens(configs, vocabulary));
  FRUGAL_TRY(ReadRoles(configs, Roles::kAdd, vocabulary));
  if (vocabulary.bos_id < 0 && vocabulary.added_tokens.empty()) {
    if (Status status = AddDefaultSpecialTokens(vocabulary); !status)
      return WithContext(std::move(status).error(), name);
    return vocabulary;
  }
  const auto finish = [&]() -> Status {
    FRUGAL_ASSIGN(vocabulary.add_prefix_space,
                  BoolMember(configs.tokenizer.object, "add_prefix_space", false));
    const json* model_type = Member(configs.model.object, "model_type");
    const bool is_opt = model_type != nullptr && *model_type == "opt";
    FRUGAL_ASSIGN(const bool add_bos, BoolMember(configs.tokenizer.object, "add_bos_token", is_opt));
    if (add_bos && vocabulary.bos_id < 0) return BadModel("add_bos_token: there is no bos_token");
    if (add_bos) vocabulary.prefix_ids = {vocabulary.bos_id};
    return {};
  };
  if (Status status = finish(); !status)
    return WithContext(std::move(status).error(), configs.tokenizer.path);
  return vocabulary;
}

}  // namespace

Result<Vocabulary> ReadHuggingFaceVocabulary(const std::string& directory) {
  return ReadHuggingFaceVocabulary(directory, TokenizerFiles::kAny);
}

Result<Vocabulary> ReadHuggingFaceVocabulary(const std::string& directory, TokenizerFiles files) {
  if (files == TokenizerFiles::kAny || files == TokenizerFiles::kTokenizerJson) {
    const std::string path = directory + "/tokenizer.json";
    FRUGAL_ASSIGN(std::optional<std::string> text, ReadTokenizerFile(path));
    if (text) {
      FRUGAL_ASSIGN(Vocabulary vocabulary, ParseTokenizerJson(*text, path));
      text.reset();
      FRUGAL_ASSIGN(const Configs configs, ReadConfigs(directory));
      // `unk_id` is what stands for an unknown byte, which is tokenizer.json's alone to say.
      const int32_t unknown_id = vocabulary.unk_id;
      FRUGAL_TRY(ReadRoles(configs, Roles::kOnlyIds, vocabulary));
      vocabulary.unk_id = unknown_id;
      return vocabulary;
    }
  }
  if (files == TokenizerFiles::kAny || files == TokenizerFiles::kSentencePiece) {
    const std::string path = directory + "/tokenizer.model";
    FRUGAL_ASSIGN(const std::optional<std::string> text, ReadTokenizerFile(path));
    if (text) {
      FRUGAL_ASSIGN(const Configs configs, ReadConfigs(directory));
      return FromSentencePiece(*text, configs, path);
    }
  }
  if (files == TokenizerFiles::kAny || files == TokenizerFiles::kVocabAndMerges) {
    for (const std::string prefix : {"", "gpt2-"}) {
      const std::string path = directory + "/" + prefix + "vocab.json";
      const std::string merges_path = directory + "/" + prefix + "merges.txt";
      FRUGAL_ASSIGN(const std::optional<std::string> vocab, ReadTokenizerFile(path));
      if (!vocab) continue;
      FRUGAL_ASSIGN(const std::optional<std::string> merges, ReadTokenizerFile(merges_path));
      if (!merges) return BadModel("{}: not there, but {}vocab.json is", merges_path, prefix);
      FRUGAL_ASSIGN(const Configs configs, ReadConfigs(directory));
      return FromVocabAndMerges(*vocab, *merges, configs, path + " + " + prefix + "merges.txt");
    }
  }
  return MakeError(ErrorCode::kFailed,
                   "{}: no tokenizer: there is neither tokenizer.json nor tokenizer.model nor vocab.json + merges.txt",
                   directory);
}

}  // namespace frugal
