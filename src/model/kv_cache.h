// Keys and values of one sequence. Owned by a session; written and read by the forward pass.
// Layout: [num_layers][2 (K, V)][num_kv_heads][max_context][head_dim], so that one head's keys are contiguous rows for DotRows.
#pragma once

#include <cstdint>

#include "src/base/aligned_buffer.h"
#include "src/kernels/kernels.h"
#include "src/model/config.h"
#include "src/tensor/dtype.h"

namespace frugal {

class KvCache {
 public:
  // dtype F32 or F16. num_layers may be 1 for a layer-by-layer run (training).
  static Result<KvCache> Create(const ModelConfig& config, uint32_t num_layers, uint32_t max_context, DType dtype) {
    KvCache cache;
    cache.num_kv_heads_ = config.num_kv_heads;
    cache.head_dim_ = config.head_dim;
    cache.max_context_ = max_context;
    cache.dtype_ = dtype;
    cache.row_bytes_ = *RowBytes(dtype, config.head_dim);
    FRUGAL_ASSIGN(cache.memory_, AlignedBuffer::Allocate(SizeBytes(config, num_layers, max_context, dtype)));
    return cache;
  }
  static uint64_t SizeBytes(const ModelConfig& config, uint32_t num_layers, uint32_t max_context, DType dtype) {
    return uint64_t{2} * num_layers * config.num_kv_heads * max_context * *RowBytes(dtype, config.head_dim);
  }

  // Rows by position, of a key and value head. // [max_context, head_dim]
  RowSet keys(uint32_t layer, uint32_t head) const { return {Base(layer, 0, head), row_bytes_, nullptr}; }
  RowSet values(uint32_t layer, uint32_t head) const { return {Base(layer, 1, head), row_bytes_, nullptr}; }
  // k, v: [num_kv_heads * head_dim]
  void Put(uint32_t layer, uint32_t position, const float* k, const float* v) {
    for (uint32_t head = 0; head < num_kv_heads_; ++head) {
      ConvertFromFloat(dtype_, k + head * head_dim_, head_dim_, Base(layer, 0, head) + position * row_bytes_);
      ConvertFromFloat(dtype_, v + head * head_dim_, head_dim_, Base(layer, 1, head) + position * row_bytes_);
    }
  }
  DType dtype() const { return dtype_; }
  uint32_t max_context() const { return max_context_; }

 private:
  std::byte* Base(uint32_t layer, uint32_t which, uint32_t head) {
    return memory_.data() + ((uint64_t{layer} * 2 + which) * num_kv_heads_ + head) * max_context_ * row_bytes_;
  }
  const std::byte* Base(uint32_t layer, uint32_t which, uint32_t head) const {
    return const_cast<KvCache*>(this)->Base(layer, which, head);
  }

  uint32_t num_kv_heads_ = 0, head_dim_ = 0, max_context_ = 0;
  DType dtype_ = DType::kF32;
  size_t row_bytes_ = 0;
  AlignedBuffer memory_;
};

}  // namespace frugal
