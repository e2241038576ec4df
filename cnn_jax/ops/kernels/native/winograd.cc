// Convolves by Winograd's minimal filtering, for float32 and bfloat16 (computed in float32)
// channels-last arrays, behind one XLA FFI handler. A window has 2 or 3 taps, 2x2 or 3x3; with strides,
// as many of each phase (see `Shape`).
//
// Lavin & Gray 2016, "Fast algorithms for convolutional neural networks" (arXiv:1509.09308). F(M, R):
// M outputs of R taps need M + R - 1 products instead of R M, and a tile of M x M outputs the square
// of that. In 2-D:
//
//     Y = A^T [(G g G^T) * (B^T d B)] A     dg = G^T [(B^T d B) * (A dY A^T)] G
//
// The sum over features is a matrix product for each of the (M + R - 1)^2 positions. The matrices are
// those of Toom and Cook for the points 0, 1, -1 in F(2, 3), a, -a, b, -b in F(4, 2), the same and 0 in
// F(4, 3), and always infinity. With the usual a = 1 and b = 2, errors of F(4, 3) are four times those
// of the direct form. Points around 1 with few different magnitudes give smaller ones (Barabasz et al.
// 2020, "Error analysis and improving the accuracy of Winograd convolution for deep neural networks",
// arXiv:1803.10986): in F(4, 3), a = sqrt(1/2) and b = sqrt(2), whose squares are exact, twice those of
// the direct form; in F(4, 2), a = 1/2 and b = 5/4, even less.

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

// A convolution of stride 1 as a forward map, along two axes.
//
// With strides, an array falls into phases of every strides-th position. Outputs add up convolutions
// of stride 1 of all phases of the input, each with the taps of its phase: the phases are further
// features. The gradient of each phase of the input is one convolution of dy, with the taps of one
// phase, turned around.
struct Shape {
  int64_t batch, in_features, out_features, in[2], out[2], window[2], strides[2], low[2];
  int64_t in_phases[2], out_phases[2];  // the strides of one of them, and 1
  int64_t out_phase[2], kernel_phase[2], outputs[2];  // outputs: of this phase
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
void Convolve(const W& winograd, const T* x, const T* w, T* y, Slot& slot) {
  const int64_t per_tile = winograd.DataSize(1) + winograd.PanelSize(1);
  const int64_t threads = omp_get_max_threads();
  int64_t block = std::max(kLeastTiles, kOwnBlock / per_tile / kLeastTiles * kLeastTiles);
  block = Quotient(winograd.tiles, Quotient(Quotient(winograd.tiles, block), threads) * threads);
  const int64_t own = Aligned(per_tile * block * sizeof(float)) / sizeof(float);
  const int64_t kernel = Aligned(winograd.KernelSize() * sizeof(float)) / sizeof(float);
  float* const u =
      reinterpret_cast<float*>(slot.Workspace((kernel + threads * own) * sizeof(float)));
  const int64_t step = std::max<int64_t>(1, Quotient(winograd.depth, 4 * threads));
  ForEach(Quotient(winograd.depth, step), [&](int64_t i) {
    winograd.TransformKernel(w, i * step, std::min(winograd.depth, (i + 1) * step), u);
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
void SmallFilterGrad(const W& winograd, const T* x, const T* dy, T* dw, Slot& slot) {
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
        winograd.AddGradient(v, z, count, from == first, k / winograd.kTaps, k % winograd.kTaps, 0,
                             winograd.depth, sum);
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
    const int64_t first = i * winograd.depth / parts, end = (i + 1) * winograd.depth / parts;
    for (int64_t p = 0; p < winograd.panels; ++p) {
      winograd.TransformKernelGradient(du, p, first, end, dw);
    }
  });
}

template <typename W, typename T>
void FilterGrad(const W& winograd, const T* x, const T* dy, T* dw, Slot& slot) {
  const int64_t data = winograd.DataSize(1), gradient = winograd.panels * winograd.PanelSize(1);
  if (winograd.KernelSize() <= kSmallKernel) return SmallFilterGrad(winograd, x, dy, dw, slot);
  const int64_t block =
      std::min(winograd.tiles, std::max(16 * kLeastTiles, kSharedBlock / (data + gradient)));
  float* const du = reinterpret_cast<float*>(
      slot.Workspace((winograd.KernelSize() + (data + gradient) * block) * sizeof(float)));
  float* const v = du + winograd.KernelSize();
  float* const z = v + data * block;
  constexpr int64_t kPart = 8;
  // The gradients of some features and one panel are transformed while they are in the cache.
  const int64_t fit = 2 * kOwnBlock / (winograd.kTaps * winograd.kColumns) / winograd.kRows * winograd.kRows;
  const int64_t fair = Quotient(winograd.depth * winograd.panels, 4 * omp_get_max_threads());
  const int64_t features = std::min({fit, fair, winograd.depth});
  const int64_t groups = Quotient(winograd.depth, features);
  for (int64_t from = 0; from < winograd.tiles; from += block) {
    const int64_t count = std::min(block, winograd.tiles - from);
    ForEach(Quotient(count, kPart), [&](int64_t i) {
      const int64_t first = i * kPart, last = std::min(count, first + kPart);
      winograd.TransformData(x, from + first, from + last, count, v + first * winograd.pitch);
      winograd.TransformGradients(dy, from + first, from + last, count, z + first * winograd.kColumns);
    });
    ForEach(winograd.panels * groups, [&](int64_t i) {
      const int64_t p = i / groups, first = i % groups * features;
      const int64_t end = std::min(winograd.depth, first + features);
      for (int64_t k = 0; k < winograd.kTaps; ++k) {
        winograd.AddGradient(v, z, count, from == 0, p, k, first, end, du);
      }
      if (from + count == winograd.tiles) winograd.TransformKernelGradient(du, p, first, end, dw);
    });
  }
}

// Returns map `p` as a forward map; of an input gradient, the part for one phase of the input.
template <int R>
Shape AsForward(const Problem& p, int64_t phase_high, int64_t phase_wide) {
  Shape s{p.batch, p.in_features, p.out_features};
  const int64_t phases[2] = {phase_high, phase_wide};
  s.turned = p.op == kInputGrad;
  if (s.turned) std::swap(s.in_features, s.out_features);
  for (int i = 0; i < 2; ++i) {
    const int axis = i - (2 - p.ndim);
    const bool has = axis >= 0;  // a sequence has height 1
    const int64_t x = has ? p.in[axis] : 1, y = has ? p.out[axis] : 1, low = has ? p.lo[axis] : 0;
    const int64_t stride = has ? p.strides[axis] : 1, taps = has ? R : 1;
    s.window[i] = has ? p.window[axis] : 1;
    s.strides[i] = stride;
    s.in[i] = s.turned ? y : x, s.out[i] = s.turned ? x : y;
    s.in_phases[i] = s.turned ? 1 : stride, s.out_phases[i] = s.turned ? stride : 1;
    s.out_phase[i] = phases[i];
    s.kernel_phase[i] = (phases[i] + low) % stride;
    s.outputs[i] = Quotient(s.out[i] - phases[i], s.out_phases[i]);
    s.low[i] = s.turned ? taps - 1 - (phases[i] + low) / stride : low;
  }
  return s;
}

template <typename W, int R, typename T>
void Run(const Problem& p, void* const buffers[3], Slot& slot) {
  const auto* a = static_cast<const T*>(buffers[0]);
  const auto* b = static_cast<const T*>(buffers[1]);
  auto* out = static_cast<T*>(buffers[2]);
  Shape s = AsForward<R>(p, 0, 0);
  if (p.op == kFilterGrad) return FilterGrad(W{s}, a, b, out, slot);
  for (int64_t i = 0; i < std::min(s.out[0], s.out_phases[0]); ++i) {
    for (int64_t j = 0; j < std::min(s.out[1], s.out_phases[1]); ++j) {
      s = AsForward<R>(p, i, j);
      Convolve(W{s}, a, b, out, slot);
    }
  }
}

template <typename T, int M, int R, int N>
void RunHere(const Problem& p, void* const buffers[3], Slot& slot) {
  if (Has(dnnl::cpu_isa::avx512_core)) {
    Run<avx512::Winograd<T, M, R, N>, R, T>(p, buffers, slot);
  } else {
    Run<avx2::Winograd<T, M, R, N>, R, T>(p, buffers, slot);
  }
}

template <typename T, int N>
auto Choose(int64_t taps, int64_t outputs) {
  if (taps == 2) return RunHere<T, 4, 2, N>;
  return outputs == 2 ? RunHere<T, 2, 3, N> : RunHere<T, 4, 3, N>;
}

ffi::Error Winograd(ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::Result<ffi::AnyBuffer> out,
                    ffi::Span<const int64_t> problem, int64_t outputs) {
  if (problem.size() * sizeof(int64_t) != sizeof(Problem)) {
    return ffi::Error::InvalidArgument("the problem has the wrong number of entries");
  }
  Problem p;
  std::memcpy(&p, problem.begin(), sizeof p);
  void* const buffers[] = {a.untyped_data(), b.untyped_data(), out->untyped_data()};
  const int64_t taps = Quotient(p.window[0], p.strides[0]);
  return TakeTurn(Work(p) / 2 < kLeastToShare, [&](Slot& slot) {
    const auto choose = p.ndim == 1 ? (p.dtype == kFloat32 ? Choose<float, 1> : Choose<Bfloat16, 1>)
                                    : (p.dtype == kFloat32 ? Choose<float, 2> : Choose<Bfloat16, 2>);
    choose(taps, outputs)(p, buffers, slot);
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
