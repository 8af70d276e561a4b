// Products with many tokens (a prompt). The tokens' inputs are laid out once for all rows: a vector has one column of 16 tokens (as many as
// the instruction set's vectors hold), the columns of one lane of the sum follow each other. So a register tile of 12 rows and 32 tokens
// reads memory in its order, and keeps a lane's sums in registers from the first column to the last. The order of sums is that of
// kernels.h, and so are the bits. What the layout is good for: docs/decisions/0008-prompts.md.
#pragma once

#include <cstddef>

#include "src/kernels/kernels.h"

namespace frugal {

// Fewer tokens than this are left to DotRows.
constexpr size_t kLeastPanelTokens = 16;
constexpr bool TakesPanels(size_t num_tokens) { return num_tokens >= kLeastPanelTokens; }
// Tokens that FillTokenPanels lays out together; every instruction set's vectors divide it.
constexpr size_t kPanelTokens = 32;
// Rows that DotRowsOfPanels lays out at a time; fewer, and a number that kRowsOfManyTokens does not divide, cost more for each row.
constexpr size_t kPanelRows = 4 * kRowsOfManyTokens;

// Floats of the panels of so many tokens, and of the room that DotRowsOfPanels needs for its own.
size_t TokenPanelFloats(size_t num_tokens, size_t columns);
size_t PanelScratchFloats(size_t columns);

// Tokens [first, first + count) of x to their place in `panels`. `first` is a multiple of kPanelTokens; count is kPanelTokens, or less for
// the last tokens. `panels` has an alignment of 64 bytes.
void FillTokenPanels(const float* x, size_t x_stride, size_t first, size_t count, size_t columns, float* panels);

// DotRows with the tokens of `panels`. dtype F32, F16 or BF16. `scratch` is this call's own.
void DotRowsOfPanels(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const float* panels, size_t num_tokens,
                     float* scratch, float* out, size_t out_stride);

}  // namespace frugal
