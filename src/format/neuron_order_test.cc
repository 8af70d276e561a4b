#include "src/format/neuron_order.h"

#include <gtest/gtest.h>

#include <numeric>
#include <utility>

#include "src/base/random.h"
#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

Result<NeuronOrders> Parse(const std::string& text, uint32_t num_layers, uint32_t ffn_size) {
  const auto source = MakeMemorySource("orders.txt", std::as_bytes(std::span(text)));
  return ReadNeuronOrders(*source, num_layers, ffn_size);
}

TEST(NeuronOrderTest, ReadsALinePerLayer) {
  const NeuronOrders expected = {{2, 0, 1}, {0, 1, 2}};
  for (const char* text : {"2 0 1\n0 1 2\n", "2 0 1\n0 1 2", "  2\t00 1 \r\n0  1  2\r\n"}) {
    const Result<NeuronOrders> orders = Parse(text, 2, 3);
    ASSERT_TRUE(orders) << orders.error().message;
    EXPECT_EQ(*orders, expected) << text;
  }
}

TEST(NeuronOrderTest, ReadsWhatItWrote) {
  // Longer than the window that is read at once.
  Random random(1);
  NeuronOrders orders(3, std::vector<uint32_t>(20000));
  for (std::vector<uint32_t>& order : orders) {
    std::iota(order.begin(), order.end(), 0u);
    for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[random.Below(i + 1)]);
  }
  const TempDir directory;
  const std::string path = directory.File("orders.txt");
  ASSERT_TRUE(WriteNeuronOrders(path, Overwrite::kNo, orders));
  const Result<NeuronOrders> read = ReadNeuronOrders(path, 3, 20000);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(*read, orders);
  const Status again = WriteNeuronOrders(path, Overwrite::kNo, orders);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kUsage);
}

TEST(NeuronOrderTest, NamesFileLayerAndPositionOfWhatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "layer 0 is missing: the file has 0 lines, the model 2 layers"},
      {"2 0 1\n", "layer 1 is missing: the file has 1 lines"},
      {"2 0 1\n0 1 2\n\n", "offset 12: more than the 2 lines"},
      {"2 0 1\n0 1\n", "layer 1: position 2: the line ends, expected 3 neurons"},
      {"2 0 1\n\n0 1 2\n", "layer 1: position 0: the line ends"},
      {"2 0 1 0\n0 1 2\n", "layer 0: position 3: the layer has 3 neurons, expected the end of the line"},
      {"2 0 1\n0 1 1\n", "layer 1: position 2: neuron 1 was at position 1 already"},
      {"2 0 3\n0 1 2\n", "layer 0: position 2: the number at offset 4 is 3 or more, expected one below 3"},
      {"2 0 99999999999999999999999\n", "layer 0: position 2: the number at offset 4 is 9 or more"},
      {"2 -1 0\n", "layer 0: position 1: '-' at offset 2, expected a number below 3"},
      {"2,0,1\n", "layer 0: position 0: ',' at offset 1"},
      {"2 0 1\x1b\n", "layer 0: position 2: '\\x1b' at offset 5"},
  };
  for (const auto& [text, part] : cases) {
    const Result<NeuronOrders> orders = Parse(text, 2, 3);
    ASSERT_FALSE(orders) << text;
    EXPECT_EQ(orders.error().code, ErrorCode::kBadModel);
    EXPECT_NE(orders.error().message.find(part), std::string::npos) << orders.error().message;
    EXPECT_EQ(orders.error().message.find("orders.txt: "), 0u) << orders.error().message;
  }
}

TEST(NeuronOrderTest, AMissingFileIsNamed) {
  const Result<NeuronOrders> orders = ReadNeuronOrders("/nowhere/orders.txt", 1, 1);
  ASSERT_FALSE(orders);
  EXPECT_EQ(orders.error().code, ErrorCode::kIo);
  EXPECT_NE(orders.error().message.find("/nowhere/orders.txt"), std::string::npos);
}

TEST(NeuronOrderTest, SaysWhyAnOrderIsNone) {
  EXPECT_EQ(WhyNoPermutation(std::vector<uint32_t>{}), "");
  EXPECT_EQ(WhyNoPermutation(std::vector<uint32_t>{1, 0, 2}), "");
  EXPECT_EQ(WhyNoPermutation(std::vector<uint32_t>{1, 3, 2}), "position 1: neuron 3, expected one below 3");
  EXPECT_EQ(WhyNoPermutation(std::vector<uint32_t>{1, 0, 1}), "position 2: neuron 1 for the second time");
}

}  // namespace
}  // namespace frugal
