#include <algorithm>
#include <iterator>

#include "src/format/pickle_values.h"

namespace frugal {
namespace {

struct OpcodeName {
  uint8_t opcode;
  std::string_view name;
};

// https://docs.python.org/3/library/pickletools.html; those that the reader carries out need no name.
constexpr OpcodeName kRefusedOpcodes[] = {
    {'i', "INST"},          {'o', "OBJ"},         {0x81, "NEWOBJ"},         {0x92, "NEWOBJ_EX"},   {0x82, "EXT1"},
    {0x83, "EXT2"},         {0x84, "EXT4"},       {'P', "PERSID"},          {'I', "INT"},          {'L', "LONG"},
    {'S', "STRING"},        {'V', "UNICODE"},     {'F', "FLOAT"},           {'g', "GET"},          {'p', "PUT"},
    {'0', "POP"},           {'1', "POP_MARK"},    {'2', "DUP"},             {'d', "DICT"},         {'l', "LIST"},
    {0x8b, "LONG4"},        {0x8f, "EMPTY_SET"},  {0x90, "ADDITEMS"},       {0x91, "FROZENSET"},   {0x8e, "BINBYTES8"},
    {0x96, "BYTEARRAY8"},   {0x97, "NEXT_BUFFER"}, {0x98, "READONLY_BUFFER"}};

}  // namespace

std::optional<std::string_view> PickleOpcodeName(uint8_t opcode) {
  const auto found = std::find_if(std::begin(kRefusedOpcodes), std::end(kRefusedOpcodes),
                                  [opcode](const OpcodeName& item) { return item.opcode == opcode; });
  if (found == std::end(kRefusedOpcodes)) return std::nullopt;
  return found->name;
}

}  // namespace frugal
