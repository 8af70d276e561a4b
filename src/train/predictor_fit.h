// Fits one predictor: low-rank logistic regression  p(neuron i is active) = sigmoid(B[i] . (A x) + bias[i])
// on whitened inputs. It starts from the closed form that is best if the inputs are Gaussian, then follows
// the gradient of the loss. Deterministic for any number of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "src/base/function_ref.h"
#include "src/base/thread_pool.h"
#include "src/train/samples.h"
#include "src/train/whitening.h"

namespace frugal {

struct FitOptions {
  uint32_t num_epochs = 3;
  uint32_t batch_rows = 256;
  float learning_rate = 4e-3f;
  // Weight of an active neuron in the loss against an inactive one. The threshold that a recall near one
  // needs lies at a small probability; the weight makes the loss look there.
  float positive_weight = 8.0f;
  uint64_t seed = 1;
  const std::atomic<bool>* cancel = nullptr;
};

// Factors on whitened inputs.
struct WhiteFactors {
  uint32_t rank = 0;
  std::vector<float> down_transposed;  // A transposed [hidden_size, rank]
  std::vector<float>
      up;  // B transposed, in blocks of kNeuronsPerBlock neurons: [rank, neurons of the block] each
  std::vector<float> bias;  // [ffn_size]
};
constexpr size_t kNeuronsPerBlock = 256;

// The layer's pre-activations as a linear function of whitened inputs: h = weight x + bias, plus noise that
// the inputs do not explain.
struct LinearTarget {
  size_t hidden_size = 0, ffn_size = 0;
  std::vector<float> weight;    // [ffn_size, hidden_size]
  std::vector<float> bias;      // [ffn_size]: the mean of h, since x has mean 0
  std::vector<float> variance;  // [ffn_size]: of h
};

// The directions of x that explain most of h, each neuron's h scaled to variance 1. // [count, hidden_size],
// orthonormal rows
std::vector<float> LeadingDirections(ThreadPool& pool, const LinearTarget& target, size_t count,
                                     uint64_t seed);

// The first `rank` directions; scores are the log odds of h > 0 given these.
WhiteFactors ClosedForm(ThreadPool& pool, const LinearTarget& target, std::span<const float> directions,
                        uint32_t rank, float positive_weight);

// Follows the gradient over `rows` of the whitened inputs. `progress` gets the share done. kFailed
// "interrupted" when cancelled.
Status FineTune(ThreadPool& pool, const RowStore& inputs, const RowStore& active, RowRange rows,
                const FitOptions& options, WhiteFactors& factors, FunctionRef<void(double share)> progress);
// Bytes that FineTune allocates.
uint64_t FineTuneBytes(uint64_t hidden_size, uint64_t ffn_size, uint32_t rank, uint32_t batch_rows,
                       int num_threads);

}  // namespace frugal
