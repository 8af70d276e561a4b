#include "src/train/predictor_fit.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "src/base/random.h"
#include "src/kernels/kernels.h"
#include "src/kernels/training_kernels.h"
#include "src/select/selector.h"
#include "src/train/linear_algebra.h"

namespace frugal {
namespace {

constexpr size_t kInputsPerTile = 48;
constexpr size_t kRowsPerTile = 48;
// sigmoid(1.702 t) is within 0.01 of the normal distribution function.
constexpr float kLogisticScale = 1.702f;

int NumTiles(size_t size, size_t per_tile) { return static_cast<int>((size + per_tile - 1) / per_tile); }

// Adam (Kingma and Ba, arXiv 1412.6980), for a run of parameters.
class Adam {
 public:
  explicit Adam(size_t size) : mean_(size), square_(size) {}

  // Sets the step's rate, with the corrections for a start from zero.
  void BeginStep(float learning_rate) {
    ++step_;
    mean_correction_ = learning_rate / (1.0f - std::pow(kMeanDecay, static_cast<float>(step_)));
    square_correction_ = 1.0f / (1.0f - std::pow(kSquareDecay, static_cast<float>(step_)));
  }
  // Parameters [begin, begin + gradient.size()).
  void Apply(size_t begin, std::span<const float> gradient, float* parameters) {
    float* const mean = mean_.data() + begin;
    float* const square = square_.data() + begin;
    for (size_t i = 0; i < gradient.size(); ++i) {
      const float g = gradient[i];
      mean[i] += (g - mean[i]) * (1.0f - kMeanDecay);
      square[i] += (g * g - square[i]) * (1.0f - kSquareDecay);
      parameters[i] -= mean[i] * mean_correction_ / (std::sqrt(square[i] * square_correction_) + kEpsilon);
    }
  }

 private:
  static constexpr float kMeanDecay = 0.9f;
  static constexpr float kSquareDecay = 0.99f;
  // Against gradients summed over a minibatch: neurons that are hardly ever active stay where the closed form
  // put them.
  static constexpr float kEpsilon = 0.1f;

  std::vector<float> mean_, square_;
  int step_ = 0;
  float mean_correction_ = 0, square_correction_ = 0;
};

class FineTuner {
 public:
  FineTuner(ThreadPool& pool, size_t hidden_size, size_t ffn_size, const FitOptions& options,
            WhiteFactors& factors)
      : pool_(pool),
        hidden_(hidden_size),
        ffn_(ffn_size),
        rank_(factors.rank),
        batch_(options.batch_rows),
        positive_weight_(options.positive_weight),
        factors_(factors),
        down_adam_(hidden_ * rank_),
        up_adam_(ffn_ * rank_),
        bias_adam_(ffn_),
        projected_(batch_ * rank_),
        partial_(static_cast<size_t>(num_blocks()) * batch_ * rank_),
        gradient_(batch_ * rank_) {
    const size_t per_worker =
        std::max(batch_ * kNeuronsPerBlock + 2 * rank_ * kNeuronsPerBlock + kNeuronsPerBlock,
                 kInputsPerTile * (batch_ + rank_));
    scratch_.resize(static_cast<size_t>(pool.num_threads()) * per_worker);
    scratch_per_worker_ = per_worker;
  }

  // One minibatch: x [num_rows, hidden], active [num_rows, words].
  void Step(const float* x, const uint64_t* active, size_t num_rows, float learning_rate) {
    down_adam_.BeginStep(learning_rate);
    up_adam_.BeginStep(learning_rate);
    bias_adam_.BeginStep(learning_rate);
    pool_.Run(NumTiles(num_rows, kRowsPerTile), [&](int tile, int) {
      const size_t begin = tile * kRowsPerTile;
      MatMulNN(x + begin * hidden_, factors_.down_transposed.data(), projected_.data() + begin * rank_,
               std::min(kRowsPerTile, num_rows - begin), rank_, hidden_);
    });
    pool_.Run(num_blocks(),
              [&](int block, int worker) { StepBlock(block, active, num_rows, Scratch(worker)); });
    std::copy_n(partial_.data(), num_rows * rank_, gradient_.data());
    for (int block = 1; block < num_blocks(); ++block) {
      Add(gradient_.data(), partial_.data() + block * batch_ * rank_, num_rows * rank_);
    }
    pool_.Run(NumTiles(hidden_, kInputsPerTile),
              [&](int tile, int worker) { StepInputs(tile, x, num_rows, Scratch(worker)); });
  }

 private:
  int num_blocks() const { return NumTiles(ffn_, kNeuronsPerBlock); }
  float* Scratch(int worker) { return scratch_.data() + static_cast<size_t>(worker) * scratch_per_worker_; }

  // Scores of a block of neurons, their loss's gradient, and the block's step.
  void StepBlock(int block, const uint64_t* active, size_t num_rows, float* scratch) {
    const size_t begin = block * kNeuronsPerBlock;
    const size_t width = std::min(kNeuronsPerBlock, ffn_ - begin);
    float* const up = factors_.up.data() + begin * rank_;                 // [rank, width]
    float* const errors = scratch;                                        // [num_rows, width]
    float* const up_rows = errors + batch_ * kNeuronsPerBlock;            // [width, rank]
    float* const up_gradient = up_rows + rank_ * kNeuronsPerBlock;        // [rank, width]
    float* const bias_gradient = up_gradient + rank_ * kNeuronsPerBlock;  // [width]
    MatMulNN(projected_.data(), up, errors, num_rows, width, rank_);
    for (size_t row = 0; row < num_rows; ++row)
      Add(errors + row * width, factors_.bias.data() + begin, width);
    Sigmoid(errors, num_rows * width);
    std::fill_n(bias_gradient, width, 0.0f);
    for (size_t row = 0; row < num_rows; ++row) {
      float* const error = errors + row * width;
      MarkActive(active + row * Selector::WordsPerToken(static_cast<uint32_t>(ffn_)), begin, width, error);
      Add(bias_gradient, error, width);
    }
    for (size_t k = 0; k < rank_; ++k) {
      for (size_t i = 0; i < width; ++i) up_rows[i * rank_ + k] = up[k * width + i];
    }
    MatMulNN(errors, up_rows, partial_.data() + block * batch_ * rank_, num_rows, rank_, width);
    std::fill_n(up_gradient, rank_ * width, 0.0f);
    MatMulTransposedF32(projected_.data(), errors, up_gradient, rank_, width, num_rows);
    up_adam_.Apply(begin * rank_, {up_gradient, rank_ * width}, up);
    bias_adam_.Apply(begin, {bias_gradient, width}, factors_.bias.data() + begin);
  }

  // d loss / d score is p for an inactive neuron, weight * (p - 1) for an active one.
  void MarkActive(const uint64_t* active, size_t begin, size_t width, float* error) const {
    for (size_t word = begin / 64; word * 64 < begin + width; ++word) {
      for (uint64_t bits = active[word]; bits != 0; bits &= bits - 1) {
        float& e = error[word * 64 + static_cast<size_t>(std::countr_zero(bits)) - begin];
        e = positive_weight_ * (e - 1.0f);
      }
    }
  }

  void StepInputs(int tile, const float* x, size_t num_rows, float* scratch) {
    const size_t begin = tile * kInputsPerTile;
    const size_t width = std::min(kInputsPerTile, hidden_ - begin);
    float* const columns = scratch;                             // [width, num_rows]
    float* const gradient = columns + kInputsPerTile * batch_;  // [width, rank]
    for (size_t row = 0; row < num_rows; ++row) {
      for (size_t i = 0; i < width; ++i) columns[i * num_rows + row] = x[row * hidden_ + begin + i];
    }
    MatMulNN(columns, gradient_.data(), gradient, width, rank_, num_rows);
    down_adam_.Apply(begin * rank_, {gradient, width * rank_},
                     factors_.down_transposed.data() + begin * rank_);
  }

  ThreadPool& pool_;
  const size_t hidden_, ffn_, rank_, batch_;
  const float positive_weight_;
  WhiteFactors& factors_;
  Adam down_adam_, up_adam_, bias_adam_;
  std::vector<float> projected_;  // [batch, rank]: A x
  std::vector<float> partial_;    // [blocks, batch, rank]: each block's part of d loss / d (A x)
  std::vector<float> gradient_;   // [batch, rank]: their sum
  std::vector<float> scratch_;    // [threads, scratch_per_worker_]
  size_t scratch_per_worker_ = 0;
};

}  // namespace

std::vector<float> LeadingDirections(ThreadPool& pool, const LinearTarget& target, size_t count,
                                     uint64_t seed) {
  const size_t n = target.hidden_size;
  std::vector<float> gram(n * n);
  std::vector<float> scaled(kNeuronsPerBlock * n);
  for (size_t begin = 0; begin < target.ffn_size; begin += kNeuronsPerBlock) {
    const size_t rows = std::min(kNeuronsPerBlock, target.ffn_size - begin);
    std::copy_n(target.weight.data() + begin * n, rows * n, scaled.data());
    for (size_t i = 0; i < rows; ++i) {
      Scale(scaled.data() + i * n, 1.0f / std::sqrt(std::max(target.variance[begin + i], 1e-20f)), n);
    }
    AddCrossProduct(pool, scaled.data(), scaled.data(), gram.data(), n, n, rows);
  }
  return LeadingEigenvectors(pool, gram.data(), n, count, seed);
}

WhiteFactors ClosedForm(ThreadPool& pool, const LinearTarget& target, std::span<const float> directions,
                        uint32_t rank, float positive_weight) {
  const size_t n = target.hidden_size;
  WhiteFactors factors;
  factors.rank = rank;
  factors.down_transposed.resize(n * rank);
  for (size_t k = 0; k < rank; ++k) {
    for (size_t i = 0; i < n; ++i) factors.down_transposed[i * rank + k] = directions[k * n + i];
  }
  factors.up.resize(target.ffn_size * rank);
  factors.bias.resize(target.ffn_size);
  std::vector<float> projected(kNeuronsPerBlock *
                               rank);  // weight transpose(A): the regression of h on A x // [neurons, rank]
  for (size_t begin = 0; begin < target.ffn_size; begin += kNeuronsPerBlock) {
    const size_t width = std::min(kNeuronsPerBlock, target.ffn_size - begin);
    float* const up = factors.up.data() + begin * rank;
    Multiply(pool, target.weight.data() + begin * n, factors.down_transposed.data(), projected.data(), width,
             rank, n);
    for (size_t i = 0; i < width; ++i) {
      const float* const row = projected.data() + i * rank;
      float explained = 0.0f;
      for (size_t k = 0; k < rank; ++k) explained += row[k] * row[k];
      const float variance = std::max(target.variance[begin + i], 1e-12f);
      const float noise = std::sqrt(std::max(variance - explained, 0.01f * variance));
      for (size_t k = 0; k < rank; ++k) up[k * width + i] = kLogisticScale * row[k] / noise;
      factors.bias[begin + i] = kLogisticScale * target.bias[begin + i] / noise + std::log(positive_weight);
    }
  }
  return factors;
}

Status FineTune(ThreadPool& pool, const RowStore& inputs, const RowStore& active, RowRange rows,
                const FitOptions& options, WhiteFactors& factors, FunctionRef<void(double share)> progress) {
  const size_t hidden = factors.down_transposed.size() / factors.rank;
  const size_t ffn = factors.bias.size();
  const size_t words = active.row_bytes() / sizeof(uint64_t);
  FineTuner tuner(pool, hidden, ffn, options, factors);
  std::vector<float> x(options.batch_rows * hidden);
  std::vector<uint64_t> labels(options.batch_rows * words);
  std::vector<std::byte> scratch;
  const uint64_t num_batches = (rows.count + options.batch_rows - 1) / options.batch_rows;
  const uint64_t num_steps = num_batches * options.num_epochs;
  std::vector<uint64_t> order(num_batches);
  std::iota(order.begin(), order.end(), uint64_t{0});
  Random random(options.seed);
  for (uint64_t step = 0; step < num_steps; ++step) {
    if (options.cancel != nullptr && options.cancel->load())
      return MakeError(ErrorCode::kFailed, "interrupted");
    if (step % num_batches == 0) {
      for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.Below(i)]);
    }
    const uint64_t begin = order[step % num_batches] * options.batch_rows;
    const RowRange part = {rows.begin + begin, std::min<uint64_t>(options.batch_rows, rows.count - begin)};
    FRUGAL_TRY(ReadHalfRows(inputs, part, hidden, scratch, x.data()));
    FRUGAL_TRY(active.Read(part.begin, std::as_writable_bytes(std::span(labels).first(part.count * words))));
    // Falls to zero in a straight line: the last steps settle.
    const float left = 1.0f - static_cast<float>(step) / static_cast<float>(num_steps);
    tuner.Step(x.data(), labels.data(), part.count, options.learning_rate * left);
    progress(static_cast<double>(step + 1) / static_cast<double>(num_steps));
  }
  return {};
}

uint64_t FineTuneBytes(uint64_t hidden_size, uint64_t ffn_size, uint32_t rank, uint32_t batch_rows,
                       int num_threads) {
  const uint64_t parameters = (hidden_size + ffn_size) * rank + ffn_size;
  const uint64_t blocks = (ffn_size + kNeuronsPerBlock - 1) / kNeuronsPerBlock;
  const uint64_t per_worker =
      std::max<uint64_t>(batch_rows * kNeuronsPerBlock + 2 * rank * kNeuronsPerBlock + kNeuronsPerBlock,
                         kInputsPerTile * (batch_rows + rank));
  const uint64_t floats = 2 * parameters + (blocks + 2) * batch_rows * rank + batch_rows * hidden_size +
                          static_cast<uint64_t>(num_threads) * per_worker;
  return floats * sizeof(float) +
         batch_rows * (Selector::WordsPerToken(static_cast<uint32_t>(ffn_size)) * 8 + hidden_size * 2);
}

}  // namespace frugal
