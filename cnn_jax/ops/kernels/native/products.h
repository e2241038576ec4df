// Products of matrices for one instruction set, with LANES float32 numbers in a vector and ROWS rows at
// once. As in vectors.h, everything has internal linkage.
//
// The right operand is in panels of kPanel columns, one after the other, each with its rows in order.

constexpr int kPanel = 2 * LANES;
constexpr int kLine = 16;   // numbers of a line of the cache
constexpr int kAhead = 32;  // iterations, if they read one row after the other

// c (R x V LANES) = or += a (R x depth) b (depth x V LANES), with V vectors of one panel. Steps are in
// numbers.
template <int R, int V, bool kAdd>
void Product(int64_t depth, const float* a, int64_t row_step, int64_t step, const float* b, float* c,
             int64_t c_step) {
  Vec sums[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sums[r][v] = kAdd ? Load(c + r * c_step + v * LANES) : Zero();
  }
  // What the next product or iterations read of the left operand. Its rows are often in the cache of the
  // second level, and a row's next line would be waited for every LANES iterations.
  const bool by_rows = step == 1;
  const float* ahead = a + (by_rows ? R * row_step : kAhead * step);
  const int64_t ahead_step = by_rows ? kLine : step;
  for (int64_t k = 0; k < depth; ++k, a += step, b += kPanel, ahead += ahead_step) {
    __builtin_prefetch(ahead);
    const Vec b0 = Load(b), b1 = Load(b + (V - 1) * LANES);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      sums[r][0] += a[r * row_step] * b0;
      if (V > 1) sums[r][V - 1] += a[r * row_step] * b1;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) Store(c + r * c_step + v * LANES, sums[r][v]);
  }
}

// The same for any number of rows.
template <int V, bool kAdd, int R = ROWS>
void Products(int64_t rows, int64_t depth, const float* a, int64_t row_step, int64_t step,
              const float* b, float* c, int64_t c_step) {
  if constexpr (R > 0) {
    for (; rows >= R; rows -= R, a += R * row_step, c += R * c_step) {
      Product<R, V, kAdd>(depth, a, row_step, step, b, c, c_step);
    }
    if (rows) Products<V, kAdd, R - 1>(rows, depth, a, row_step, step, b, c, c_step);
  }
}
