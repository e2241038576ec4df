// A convolution as the Python side describes it.

#pragma once

#include <cstdint>
#include <cstring>

namespace cnn_jax {

constexpr int kMaxSpatial = 3;

inline int64_t Quotient(int64_t a, int64_t b) { return (a + b - 1) / b; }  // rounded up

// A call of less work than this (see `Work`) runs on the calling thread: to wake another one takes
// 50 to 100 microseconds.
constexpr int64_t kLeastToShare = 1 << 24;

enum Op : int64_t { kForward, kInputGrad, kFilterGrad, kFilterGradPart };
enum DType : int64_t { kFloat32, kBfloat16, kInt8 };  // of the operands; int8 gives int32

// One convolution problem. All members are int64_t, so that it can be hashed and compared as bytes.
struct Problem {
  int64_t op, dtype, plain_kernel, ndim, groups, batch, in_features, out_features;
  int64_t in[kMaxSpatial], window[kMaxSpatial], out[kMaxSpatial];
  int64_t strides[kMaxSpatial], dilation[kMaxSpatial], lo[kMaxSpatial], hi[kMaxSpatial];

  bool operator==(const Problem& other) const { return !std::memcmp(this, &other, sizeof *this); }
};

// A filter gradient adds up the products of at most about this many positions in float32, and the sums in
// float64.
constexpr int64_t kMost = 1 << 12;

// Returns the number of products plus 32 for each element of x and y, whose transport takes about as
// long.
inline int64_t Work(int64_t products, int64_t elements) { return products + 32 * elements; }

// The same for a problem, with the products with padding.
inline int64_t Work(const Problem& p) {
  int64_t x = p.batch * p.in_features, y = p.batch * p.out_features, window = 1;
  for (int i = 0; i < p.ndim; ++i) x *= p.in[i], y *= p.out[i], window *= p.window[i];
  return Work(y * window * (p.in_features / p.groups), x + y);
}

}  // namespace cnn_jax
