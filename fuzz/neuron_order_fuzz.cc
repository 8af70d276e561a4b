// Any bytes as a file of neuron orders: refused with a message, or permutations that come back from what is
// written of them.
#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "src/base/check.h"
#include "src/format/neuron_order.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto source = frugal::MakeMemorySource("fuzz.order", std::as_bytes(std::span(data, size)));
  const frugal::Result<frugal::NeuronOrders> orders = frugal::ReadNeuronOrders(*source, 2, 5);
  if (!orders) {
    CHECK(orders.error().code == frugal::ErrorCode::kBadModel);
    CHECK(orders.error().message.size() < 500);
    return 0;
  }
  CHECK(orders->size() == 2);
  std::string text;
  for (const auto& order : *orders) {
    CHECK(order.size() == 5 && frugal::WhyNoPermutation(order).empty());
    text += fmt::format("{}\n", fmt::join(order, " "));
  }
  const auto written = frugal::MakeMemorySource("written.order", std::as_bytes(std::span(text)));
  const auto again = frugal::ReadNeuronOrders(*written, 2, 5);
  CHECK(again && *again == *orders);
  return 0;
}
