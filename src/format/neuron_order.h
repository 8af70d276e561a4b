// Orders of a model's neurons and the text file that holds them (docs/packed-model.md draws it): a line for
// each layer, in it the checkpoint's neuron of each position in the packed file. The file comes from anybody;
// the first thing wrong in it is named.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/format/byte_source.h"
#include "src/format/output_file.h"

namespace frugal {

// [num_layers][ffn_size]: the checkpoint's neuron of each position; every line a permutation.
using NeuronOrders = std::vector<std::vector<uint32_t>>;

// A place where `order` is no permutation of [0, order.size()), said as "position P: ..."; empty when it is
// one.
std::string WhyNoPermutation(std::span<const uint32_t> order);

// Orders for a model of that size; kUsage says what is wrong. None at all is right: the checkpoint's own.
Status CheckNeuronOrders(const NeuronOrders& orders, uint32_t num_layers, uint32_t ffn_size);

// kBadModel names the file, the layer (from 0), the position and what was expected; kIo when it cannot be
// read. A window of the file is in memory, and the result.
Result<NeuronOrders> ReadNeuronOrders(ByteSource& source, uint32_t num_layers, uint32_t ffn_size);
Result<NeuronOrders> ReadNeuronOrders(const std::string& path, uint32_t num_layers, uint32_t ffn_size);

// As OutputFile: the whole file or nothing.
Status WriteNeuronOrders(const std::string& path, Overwrite overwrite, const NeuronOrders& orders);

}  // namespace frugal
