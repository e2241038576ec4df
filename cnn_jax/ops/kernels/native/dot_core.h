// The inner loops of dot.cc for one instruction set. As in vectors.h, everything has internal linkage.

#include "products.h"

struct Dot {
  static constexpr int kColumns = kPanel;

  // c (rows x columns) = a (rows x depth) times the transpose of b (columns x depth), for few columns.
  static void Multiply(int64_t rows, int64_t depth, int64_t columns, const float* a, const float* b,
                       float* c) {
    constexpr int64_t kRowsAhead = 16;
    for (int64_t r = 0; r < rows; ++r, a += depth, c += columns) {
      for (int64_t k = 0; k < depth; k += kLine) __builtin_prefetch(a + kRowsAhead * depth + k);
      for (int64_t j = 0; j < columns; ++j) c[j] = InnerProduct(depth, a, b + j * depth);
    }
  }

  // sums (rows x pitch) = or += a^T b of `count` rows of a, for few rows of the result, and of b. A panel of
  // b at a time is copied to `packed`.
  static void AddOuter(int64_t count, int64_t rows, int64_t columns, const float* a, const float* b,
                       bool first, float* packed, float* sums, int64_t pitch) {
    for (int64_t j = 0; j < columns; j += kPanel) {
      const int64_t left = columns - j;
      for (int64_t i = 0; i < count; ++i) {
        Store(packed + i * kPanel, Load(b + i * columns + j, left));
        if (left > LANES) {
          Store(packed + i * kPanel + LANES, Load(b + i * columns + j + LANES, left - LANES));
        }
      }
      const auto add = left > LANES ? (first ? Products<2, false> : Products<2, true>)
                                    : (first ? Products<1, false> : Products<1, true>);
      add(rows, count, a, 1, rows, packed, sums + j, pitch);
    }
  }

 private:
  static float InnerProduct(int64_t depth, const float* a, const float* b) {
    Vec sums[2] = {};
    int64_t k = 0;
    for (; k + 2 * LANES <= depth; k += 2 * LANES) {
      sums[0] += Load(a + k) * Load(b + k);
      sums[1] += Load(a + k + LANES) * Load(b + k + LANES);
    }
    if (k + LANES <= depth) sums[0] += Load(a + k) * Load(b + k), k += LANES;
    if (k < depth) sums[1] += Load(a + k, depth - k) * Load(b + k, depth - k);
    return Sum(sums[0] + sums[1]);
  }

  static float Sum(Vec v) {
#if LANES == 16
    return _mm512_reduce_add_ps((__m512)v);
#else
    const __m128 half = _mm256_castps256_ps128((__m256)v) + _mm256_extractf128_ps((__m256)v, 1);
    const __m128 pair = half + _mm_movehl_ps(half, half);
    return pair[0] + pair[1];
#endif
  }
};
