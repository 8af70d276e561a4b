// The specification of the kernels: the same functions as kernels.h, layer_kernels.h and training_kernels.h, written plainly.
// The SIMD kernels give the same bits (NaN for NaN, whatever its payload); a processor without fused
// multiply-add runs these.
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/kernels/kernels.h"
#include "src/kernels/quantised_kernels.h"
#include "src/tensor/dtype.h"

namespace frugal::scalar {

// Lanes of a sum over K.
inline constexpr size_t kLanes = 32;
// Lanes of a sum over quantised blocks.
inline constexpr size_t kQuantisedLanes = 8;

void DotRows(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const float* x,
             size_t x_stride, size_t num_tokens, float* out, size_t out_stride);
void AddScaledRows(DType dtype, const RowSet& rows, size_t num_rows, const float* a, size_t column_begin,
                   size_t column_end, float* out);
void LayerNorm(const float* x, const float* weight, const float* bias, float epsilon, size_t size, float* y);
void Softmax(float* x, size_t size);
void AddBiasRelu(float* x, const float* bias, size_t size);
void Add(float* x, const float* y, size_t size);
void Scale(float* x, float scale, size_t size);
void ConvertToFloat(DType dtype, const std::byte* from, size_t size, float* to);
void ConvertFromFloat(DType dtype, const float* from, size_t size, std::byte* to);
bool AllFinite(const float* x, size_t size);

void QuantiseInput(const float* x, size_t size, int8_t* q, float* scales);
void DotRowsQuantised(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns,
                      const QuantisedInput& x, size_t num_tokens, float* out, size_t out_stride);

void MatMulTransposedF32(const float* a, const float* b, float* c, size_t m, size_t n, size_t k);
void MatMulNN(const float* a, const float* b, float* c, size_t m, size_t n, size_t k);
void Exp(float* x, size_t size);
void Sigmoid(float* x, size_t size);

void RmsNorm(const float* x, const float* weight, float epsilon, size_t size, float* y);
void RotateHalves(float* x, const float* cosines, const float* sines, size_t num_pairs);
void RotateNeighbours(float* x, const float* cosines, const float* sines, size_t num_pairs);
void ThresholdRelu(float* x, float threshold, size_t size);
void SquaredRelu(float* x, size_t size);
void Silu(float* x, size_t size);
void Gelu(float* x, size_t size);
void GeluTanh(float* x, size_t size);
void Multiply(float* x, const float* y, size_t size);

}  // namespace frugal::scalar
