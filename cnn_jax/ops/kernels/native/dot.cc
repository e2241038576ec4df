// Computes pointwise (1x1) convolutions with few features on one side, in float32, as products of matrices
// with one long axis: the positions. Two XLA FFI handlers, for results with and without that axis.
//
// Such products are bound by memory, and read each array once.

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "bfloat16.h"
#include "instructions.h"
#include "problem.h"
#include "threads.h"

namespace cnn_jax {
namespace {

#define CORE "dot_core.h"
#include "instruction_sets.h"

constexpr int64_t kTask = 1 << 15;  // numbers of the wide array that a task reads
constexpr int64_t kBlock = 128;     // positions whose products are added up in registers

// Returns the work of products of matrices with `rows` positions.
int64_t WorkOf(int64_t rows, int64_t depth, int64_t columns) {
  return Work(rows * depth * columns, rows * (depth + columns));
}

// c (rows x columns) = a (rows x depth) times the transpose of b (columns x depth).
template <typename D>
void Multiply(int64_t rows, int64_t depth, int64_t columns, const float* a, const float* b, float* c) {
  const int64_t block = std::max<int64_t>(1, kTask / depth);
  ForEach(Quotient(rows, block), [&](int64_t i) {
    const int64_t from = i * block;
    D::Multiply(std::min(block, rows - from), depth, columns, a + from * depth, b, c + from * columns);
  });
}

// c (rows x columns) = a^T b, sums over `count` positions, of which each task has a share.
template <typename D>
void Outer(int64_t count, int64_t rows, int64_t columns, const float* a, const float* b, float* c,
           Slot& slot) {
  const int64_t pitch = Quotient(columns, D::kColumns) * D::kColumns;
  const int64_t shares = std::clamp<int64_t>(count / kBlock, 1, omp_get_max_threads());
  const int64_t packed_bytes = Aligned(kBlock * D::kColumns * sizeof(float));
  const int64_t latest_bytes = Aligned(rows * pitch * sizeof(float));
  const int64_t bytes = packed_bytes + latest_bytes + Aligned(rows * columns * sizeof(double));
  char* const memory = slot.Workspace(shares * bytes);
  const auto sums_of = [&](int64_t share) {
    return reinterpret_cast<double*>(memory + share * bytes + packed_bytes + latest_bytes);
  };
  ForEach(shares, [&](int64_t share) {
    float* const packed = reinterpret_cast<float*>(memory + share * bytes);
    float* const latest = reinterpret_cast<float*>(memory + share * bytes + packed_bytes);
    double* const sums = sums_of(share);
    std::fill_n(sums, rows * columns, 0.0);
    const int64_t end = (share + 1) * count / shares;
    for (int64_t part = share * count / shares; part < end; part += kMost) {
      const int64_t part_end = std::min(end, part + kMost);
      for (int64_t from = part; from < part_end; from += kBlock) {
        D::AddOuter(std::min(kBlock, part_end - from), rows, columns, a + from * rows,
                    b + from * columns, from == part, packed, latest, pitch);
      }
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t j = 0; j < columns; ++j) sums[r * columns + j] += latest[r * pitch + j];
      }
    }
  });
  for (int64_t k = 0; k < rows * columns; ++k) {
    double sum = 0;
    for (int64_t share = 0; share < shares; ++share) sum += sums_of(share)[k];
    c[k] = static_cast<float>(sum);
  }
}

using Matrix = ffi::Buffer<ffi::F32, 2>;

ffi::Error Product(Matrix a, Matrix b, ffi::Result<Matrix> c) {
  const int64_t rows = a.dimensions()[0], depth = a.dimensions()[1], columns = b.dimensions()[0];
  const auto run = Has(dnnl::cpu_isa::avx512_core) ? Multiply<avx512::Dot> : Multiply<avx2::Dot>;
  return TakeTurn(WorkOf(rows, depth, columns) < kLeastToShare, [&](Slot&) {
    run(rows, depth, columns, a.typed_data(), b.typed_data(), c->typed_data());
  });
}

ffi::Error OuterProduct(Matrix a, Matrix b, ffi::Result<Matrix> c) {
  const int64_t count = a.dimensions()[0], rows = a.dimensions()[1], columns = b.dimensions()[1];
  const auto run = Has(dnnl::cpu_isa::avx512_core) ? Outer<avx512::Dot> : Outer<avx2::Dot>;
  return TakeTurn(WorkOf(count, rows, columns) < kLeastToShare, [&](Slot& slot) {
    run(count, rows, columns, a.typed_data(), b.typed_data(), c->typed_data(), slot);
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnJaxProduct, Product,
                              ffi::Ffi::Bind().Arg<Matrix>().Arg<Matrix>().Ret<Matrix>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnJaxOuterProduct, OuterProduct,
                              ffi::Ffi::Bind().Arg<Matrix>().Arg<Matrix>().Ret<Matrix>());

}  // namespace cnn_jax
