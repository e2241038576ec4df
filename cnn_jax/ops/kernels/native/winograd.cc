// Convolves with windows of 3 or 3x3 and stride 1 by Winograd's minimal filtering, for float32 and
// bfloat16 (computed in float32) channels-last arrays, behind one XLA FFI handler.
//
// Lavin & Gray 2016, "Fast algorithms for convolutional neural networks" (arXiv:1509.09308). A tile of
// M x M outputs needs (M + 2)^2 products instead of 9 M^2, and M outputs of a sequence M + 2 instead
// of 3 M. In 2-D:
//
//     Y = A^T [(G g G^T) * (B^T d B)] A     dg = G^T [(B^T d B) * (A dY A^T)] G
//
// The sum over features is a matrix product for each of the (M + 2)^2 positions. The matrices are
// those of Toom and Cook for the points 0, 1, -1 (M = 2) and 0, a, -a, b, -b (M = 4) and infinity.
// With the usual a = 1 and b = 2, errors are four times those of the direct form. Points around 1 with
// few different magnitudes give smaller ones (Barabasz et al. 2020, "Error analysis and improving the
// accuracy of Winograd convolution for deep neural networks", arXiv:1803.10986): a = sqrt(1/2) and
// b = sqrt(2), whose squares are exact, twice those of the direct form.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "bfloat16.h"
#include "instructions.h"
#include "problem.h"
#include "threads.h"

namespace cnn_jax {
namespace {

// A convolution as a forward map. `turned`: with the kernel of another map, turned around.
struct Shape {
  int64_t batch, in_features, out_features, in[2], out[2], low[2];
  bool turned;
};

#define CORE "winograd_core.h"
#include "instruction_sets.h"

// Sizes in floats. A thread's block of transformed tiles, and a kernel of at most kSmallKernel, stay in
// its cache of the second level; the block of a larger kernel's gradient, which all threads share, in
// the third. Tuned on one processor with 1 MB and 32 MB.
constexpr int64_t kOwnBlock = 1 << 17, kSmallKernel = 1 << 19, kSharedBlock = 1 << 22;
constexpr int64_t kLeastTiles = 14;

template <typename W, typename T>
void Convolve(const W& winograd, const Shape& s, const T* x, const T* w, T* y, Slot& slot) {
  const int64_t per_tile = winograd.DataSize(1) + winograd.PanelSize(1);
  const int64_t threads = omp_get_max_threads();
  int64_t block = std::max(kLeastTiles, kOwnBlock / per_tile / kLeastTiles * kLeastTiles);
  block = std::min(block, Quotient(winograd.tiles, threads));
  const int64_t own = Aligned(per_tile * block * sizeof(float)) / sizeof(float);
  const int64_t kernel = Aligned(winograd.KernelSize() * sizeof(float)) / sizeof(float);
  float* const u =
      reinterpret_cast<float*>(slot.Workspace((kernel + threads * own) * sizeof(float)));
  const int64_t step = std::max<int64_t>(1, Quotient(s.in_features, 4 * threads));
  ForEach(Quotient(s.in_features, step), [&](int64_t i) {
    winograd.TransformKernel(w, i * step, std::min(s.in_features, (i + 1) * step), u);
  });
  ForEach(Quotient(winograd.tiles, block), [&](int64_t i) {
    float* const v = u + kernel + omp_get_thread_num() * own;
    const int64_t to = std::min(winograd.tiles, (i + 1) * block);
    winograd.Convolve(x, u, y, i * block, to, v, v + winograd.DataSize(to - i * block));
  });
}

// The same for a kernel that stays in the cache of the second level: each thread adds up a share of the
// tiles, in an order that depends on their number only.
template <typename W, typename T>
void SmallFilterGrad(const W& winograd, const Shape& s, const T* x, const T* dy, T* dw, Slot& slot) {
  const int64_t data = winograd.DataSize(1), gradient = winograd.panels * winograd.PanelSize(1);
  const int64_t shares = std::min<int64_t>(omp_get_max_threads(), winograd.tiles);
  const int64_t block = std::max<int64_t>(8, kOwnBlock / (data + gradient));
  const int64_t size = winograd.KernelSize(), own = size + (data + gradient) * block;
  float* const du = reinterpret_cast<float*>(slot.Workspace(shares * own * sizeof(float)));
  ForEach(shares, [&](int64_t i) {
    const int64_t first = i * winograd.tiles / shares, end = (i + 1) * winograd.tiles / shares;
    float* const sum = du + i * own;
    float* const v = sum + size;
    for (int64_t from = first; from < end; from += block) {
      const int64_t to = std::min(end, from + block), count = to - from;
      float* const z = v + data * count;
      winograd.TransformData(x, from, to, count, v);
      winograd.TransformGradients(dy, from, to, count, z);
      for (int64_t k = 0; k < winograd.panels * winograd.kTaps; ++k) {
        winograd.AddGradient(v, z, count, from == first, k / winograd.kTaps, k % winograd.kTaps, sum);
      }
    }
  });
  const int64_t parts = std::min<int64_t>(size / 64, omp_get_max_threads());
  ForEach(parts, [&](int64_t i) {
    for (int64_t share = 1; share < shares; ++share) {
      const float* const more = du + share * own;
      for (int64_t j = i * size / parts; j < (i + 1) * size / parts; ++j) du[j] += more[j];
    }
  });
  ForEach(parts, [&](int64_t i) {
    winograd.TransformKernelGradient(du, i * s.in_features / parts, (i + 1) * s.in_features / parts, dw);
  });
}

template <typename W, typename T>
void FilterGrad(const W& winograd, const Shape& s, const T* x, const T* dy, T* dw, Slot& slot) {
  const int64_t data = winograd.DataSize(1), gradient = winograd.panels * winograd.PanelSize(1);
  if (winograd.KernelSize() <= kSmallKernel) return SmallFilterGrad(winograd, s, x, dy, dw, slot);
  const int64_t block =
      std::min(winograd.tiles, std::max(16 * kLeastTiles, kSharedBlock / (data + gradient)));
  float* const du = reinterpret_cast<float*>(
      slot.Workspace((winograd.KernelSize() + (data + gradient) * block) * sizeof(float)));
  float* const v = du + winograd.KernelSize();
  float* const z = v + data * block;
  constexpr int64_t kPart = 8;
  for (int64_t from = 0; from < winograd.tiles; from += block) {
    const int64_t count = std::min(block, winograd.tiles - from);
    ForEach(Quotient(count, kPart), [&](int64_t i) {
      const int64_t first = i * kPart, last = std::min(count, first + kPart);
      winograd.TransformData(x, from + first, from + last, count, v + first * winograd.pitch);
      winograd.TransformGradients(dy, from + first, from + last, count, z + first * winograd.kColumns);
    });
    ForEach(winograd.panels * winograd.kTaps, [&](int64_t i) {
      winograd.AddGradient(v, z, count, from == 0, i / winograd.kTaps, i % winograd.kTaps, du);
    });
  }
  ForEach(s.in_features, [&](int64_t i) {
    winograd.TransformKernelGradient(du, i, i + 1, dw);
  });
}

template <typename W, typename T>
void Run(const Problem& p, const Shape& s, void* const buffers[3], Slot& slot) {
  const W winograd{s};
  const auto* a = static_cast<const T*>(buffers[0]);
  const auto* b = static_cast<const T*>(buffers[1]);
  auto* out = static_cast<T*>(buffers[2]);
  if (p.op == kFilterGrad) {
    FilterGrad(winograd, s, a, b, out, slot);
  } else {
    Convolve(winograd, s, a, b, out, slot);
  }
}

template <typename T, int M, int N>
void RunHere(const Problem& p, const Shape& s, void* const buffers[3], Slot& slot) {
  if (Has(dnnl::cpu_isa::avx512_core)) {
    Run<avx512::Winograd<T, M, N>, T>(p, s, buffers, slot);
  } else {
    Run<avx2::Winograd<T, M, N>, T>(p, s, buffers, slot);
  }
}

Shape AsForward(const Problem& p) {
  Shape s{p.batch, p.in_features, p.out_features, {1, p.in[0]}, {1, p.out[0]}, {0, p.lo[0]}, false};
  for (int i = 0; p.ndim == 2 && i < 2; ++i) s.in[i] = p.in[i], s.out[i] = p.out[i], s.low[i] = p.lo[i];
  if (p.op != kInputGrad) return s;
  s.turned = true;
  std::swap(s.in_features, s.out_features);
  std::swap(s.in, s.out);
  for (int i = 2 - p.ndim; i < 2; ++i) s.low[i] = 2 - s.low[i];
  return s;
}

template <typename T>
auto Choose(int64_t ndim, int64_t outputs) {
  if (ndim == 1) return outputs == 2 ? RunHere<T, 2, 1> : RunHere<T, 4, 1>;
  return outputs == 2 ? RunHere<T, 2, 2> : RunHere<T, 4, 2>;
}

ffi::Error Winograd(ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::Result<ffi::AnyBuffer> out,
                    ffi::Span<const int64_t> problem, int64_t outputs) {
  if (problem.size() * sizeof(int64_t) != sizeof(Problem)) {
    return ffi::Error::InvalidArgument("the problem has the wrong number of entries");
  }
  Problem p;
  std::memcpy(&p, problem.begin(), sizeof p);
  void* const buffers[] = {a.untyped_data(), b.untyped_data(), out->untyped_data()};
  const Shape s = AsForward(p);
  return TakeTurn(Work(p) / 2 < kLeastToShare, [&](Slot& slot) {
    const auto choose = p.dtype == kFloat32 ? Choose<float> : Choose<Bfloat16>;
    choose(p.ndim, outputs)(p, s, buffers, slot);
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnJaxWinograd, Winograd,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<ffi::Span<const int64_t>>("problem")
                                  .Attr<int64_t>("outputs"));

// Returns whether this machine has the instructions of `Winograd`.
extern "C" int CnnJaxHasVectors() {
  return Has(dnnl::cpu_isa::avx2);
}

}  // namespace cnn_jax
