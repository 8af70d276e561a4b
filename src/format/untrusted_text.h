// Names and first bytes of files that somebody else made: are they text, may they be printed, what is this
// file really.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace frugal {

// As RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
bool IsValidUtf8(std::string_view text);

// For error messages: control characters and bytes that are not UTF-8 as \xNN, cut after max_bytes with
// "...".
std::string Printable(std::string_view text, size_t max_bytes = 200);

// Why a tensor name or key is refused, nullptr when it is fine: not empty, UTF-8, no control characters (NUL
// ends a C string, escape codes reach the terminal of whoever lists the file). '/' and ".." are fine: a name
// is never a path.
const char* WhyBadName(std::string_view name);

constexpr size_t kForeignPrefixBytes = 64;  // what FindForeignKind looks at
// "a Git LFS pointer, ..." when the first bytes of a file belong to something that is often found where a
// model is expected; nothing when they do not. Says nothing about GGUF and safetensors files that are what
// they should be.
std::optional<std::string_view> FindForeignKind(std::span<const std::byte> first_bytes);

// The numbers of `items` in the order of their names: what look-ups and the search for duplicates need. It is
// kept instead of a map of strings, since a model has up to a million tensors.
template <typename Item, typename NameOf>
std::vector<uint32_t> OrderByName(const std::vector<Item>& items, NameOf name_of) {
  std::vector<uint32_t> order(items.size());
  std::iota(order.begin(), order.end(), 0u);
  // Equal names stay in the order of the file, so that messages do not depend on the library.
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return name_of(items[a]) < name_of(items[b]); });
  return order;
}

// The first item whose name an earlier one has; nullptr when all differ.
template <typename Item, typename NameOf>
const Item* FindDuplicate(const std::vector<Item>& items, const std::vector<uint32_t>& order,
                          NameOf name_of) {
  const auto found = std::adjacent_find(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return name_of(items[a]) == name_of(items[b]);
  });
  return found == order.end() ? nullptr : &items[*(found + 1)];
}

template <typename Item, typename NameOf>
const Item* FindByName(const std::vector<Item>& items, const std::vector<uint32_t>& order,
                       std::string_view name, NameOf name_of) {
  const auto found =
      std::lower_bound(order.begin(), order.end(), name, [&](uint32_t index, std::string_view wanted) {
        return std::string_view(name_of(items[index])) < wanted;
      });
  if (found == order.end() || name_of(items[*found]) != name) return nullptr;
  return &items[*found];
}

}  // namespace frugal
