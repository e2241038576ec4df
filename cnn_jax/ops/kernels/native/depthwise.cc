// Convolves every feature with a window of its own, for float32 and bfloat16 (computed in float32)
// channels-last arrays with 1 or 2 spatial axes, behind one XLA FFI handler.
//
// A sum of products of few taps is bound by memory, so each row of outputs is computed in one pass over
// the rows that it needs, which stay in the cache for the next row.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "bfloat16.h"
#include "instructions.h"
#include "problem.h"
#include "threads.h"

namespace cnn_jax {
namespace {

#define CORE "depthwise_core.h"
#include "instruction_sets.h"

constexpr int64_t kRows = 4;  // of a task; they share most of the rows that they read

// The positions [from, to) of a sequence.
struct Range {
  int64_t from, to;
};

// A tap of the window along one axis: output j reads position `offset + j * stride`.
struct Tap {
  int64_t index, offset;
  Range outputs;  // those that read a position inside
};

// Outputs `first + j * step` along one axis, for j < count, which have the same taps.
struct Phase {
  int64_t first, step, count, stride;
  std::vector<Tap> taps;
};

// Returns the phases along an axis: one for a forward map, and for an input gradient one for each remainder
// of the division by the stride, in this order.
std::vector<Phase> Phases(const Problem& p, int axis) {
  const int64_t stride = p.strides[axis], low = p.lo[axis];
  const bool forward = p.op != kInputGrad;
  const int64_t size = forward ? p.in[axis] : p.out[axis];  // of what is read
  std::vector<Phase> phases;
  for (int64_t first = 0; first < (forward ? 1 : std::min(stride, p.in[axis])); ++first) {
    Phase phase{first, 1, p.out[axis], stride, {}};
    if (!forward) phase.step = stride, phase.count = Quotient(p.in[axis] - first, stride), phase.stride = 1;
    for (int64_t k = 0; k < p.window[axis]; ++k) {
      int64_t offset = k * p.dilation[axis] - low;
      if (!forward) {
        if ((first - offset) % stride) continue;
        offset = (first - offset) / stride;
      }
      const int64_t from = offset < 0 ? Quotient(-offset, phase.stride) : 0;
      const int64_t to = size > offset ? Quotient(size - offset, phase.stride) : 0;
      phase.taps.push_back({k, offset, {from, std::min(to, phase.count)}});
    }
    phases.push_back(phase);
  }
  return phases;
}

// The taps of a row of outputs: what they read, relative to output 0 and in numbers, and their place in
// the window.
struct RowTaps {
  std::vector<int64_t> offsets, places;
  std::vector<Range> outputs;
  Range all;  // the outputs for which every tap reads a position inside

  // `row`: j along the first axis; `width`: positions along the second axis of what is read.
  void Set(const Phase& y, int64_t row, const Phase& x, int64_t width, int64_t window,
           int64_t features) {
    offsets.clear(), places.clear(), outputs.clear();
    all = {0, x.count};
    for (const Tap& a : y.taps) {
      if (row < a.outputs.from || row >= a.outputs.to) continue;
      for (const Tap& b : x.taps) {
        offsets.push_back(((a.offset + row * y.stride) * width + b.offset) * features);
        places.push_back((a.index * window + b.index) * features);
        outputs.push_back(b.outputs);
        all.from = std::max(all.from, b.outputs.from), all.to = std::min(all.to, b.outputs.to);
      }
    }
    all.to = std::max(all.from, all.to);
    all.from = std::min(all.from, x.count), all.to = std::min(all.to, x.count);
  }
};

template <typename K, typename T>
void Convolve(const Problem& p, const T* in, const T* w, T* out) {
  const auto phases_y = Phases(p, 0), phases_x = Phases(p, 1);
  const bool forward = p.op == kForward;
  const int64_t* const in_size = forward ? p.in : p.out;
  const int64_t* const out_size = forward ? p.out : p.in;
  const int64_t c = p.in_features, tasks = Quotient(out_size[0], kRows);
  ForEach(p.batch * tasks, [&](int64_t task) {
    const int64_t image = task / tasks, first = task % tasks * kRows;
    const T* const x = in + image * in_size[0] * in_size[1] * c;
    RowTaps taps, some;
    for (int64_t row = first; row < std::min(first + kRows, out_size[0]); ++row) {
      const Phase& y = phases_y[row % phases_y.size()];
      for (const Phase& phase : phases_x) {
        taps.Set(y, row / phases_y.size(), phase, in_size[1], p.window[1], c);
        T* const to = out + ((image * out_size[0] + row) * out_size[1] + phase.first) * c;
        const int64_t step = phase.stride * c, out_step = phase.step * c;
        const auto edge = [&](int64_t from, int64_t end) {
          for (int64_t j = from; j < end; ++j) {
            some.offsets.clear(), some.places.clear();
            for (size_t t = 0; t < taps.offsets.size(); ++t) {
              if (j < taps.outputs[t].from || j >= taps.outputs[t].to) continue;
              some.offsets.push_back(taps.offsets[t]), some.places.push_back(taps.places[t]);
            }
            K::Outputs(1, x + j * step, some.offsets.data(), step, w, some.places.data(),
                       some.offsets.size(), c, to + j * out_step, out_step);
          }
        };
        edge(0, taps.all.from);
        K::Outputs(taps.all.to - taps.all.from, x + taps.all.from * step, taps.offsets.data(), step, w,
                   taps.places.data(), taps.offsets.size(), c, to + taps.all.from * out_step,
                   out_step);
        edge(taps.all.to, phase.count);
      }
    }
  });
}

// Each thread adds up a share of the rows: those of an image in float32, and images in float64.
template <typename K, typename T>
void FilterGrad(const Problem& p, const T* x, const T* dy, T* dw, Slot& slot) {
  const Phase y_axis = Phases(p, 0)[0], x_axis = Phases(p, 1)[0];
  const int64_t c = p.in_features, count = p.window[0] * p.window[1] * c;
  const int64_t rows = p.batch * p.out[0];
  const int64_t shares = std::min<int64_t>(omp_get_max_threads(), rows);
  const int64_t latest_bytes = Aligned(count * sizeof(float));
  const int64_t share_bytes = latest_bytes + Aligned(count * sizeof(double));
  char* const memory = slot.Workspace(shares * share_bytes);
  const auto sums_of = [&](int64_t share) {
    return reinterpret_cast<double*>(memory + share * share_bytes + latest_bytes);
  };
  ForEach(shares, [&](int64_t share) {
    float* const latest = reinterpret_cast<float*>(memory + share * share_bytes);
    double* const sums = sums_of(share);
    std::fill_n(latest, count, 0.0f);
    std::fill_n(sums, count, 0.0);
    RowTaps taps;
    const int64_t end = (share + 1) * rows / shares;
    for (int64_t i = share * rows / shares; i < end; ++i) {
      const int64_t image = i / p.out[0], row = i % p.out[0];
      const T* const from = x + image * p.in[0] * p.in[1] * c;
      const T* const gradient = dy + i * p.out[1] * c;
      taps.Set(y_axis, row, x_axis, p.in[1], p.window[1], c);
      const int64_t step = x_axis.stride * c;
      K::Products(taps.offsets.size(), from + taps.all.from * step, taps.offsets.data(), step,
                  gradient + taps.all.from * c, taps.all.to - taps.all.from, c, latest,
                  taps.places.data());
      for (size_t t = 0; t < taps.offsets.size(); ++t) {
        const auto edge = [&](int64_t first, int64_t last) {
          if (first >= last) return;
          K::Products(1, from + first * step, &taps.offsets[t], step, gradient + first * c,
                      last - first, c, latest, &taps.places[t]);
        };
        const Range own = taps.outputs[t];
        edge(own.from, std::min(own.to, taps.all.from));
        edge(std::max(own.from, taps.all.to), own.to);
      }
      if (row + 1 < p.out[0] && i + 1 < end) continue;
      for (int64_t k = 0; k < count; ++k) sums[k] += latest[k], latest[k] = 0;
    }
  });
  float* const total = reinterpret_cast<float*>(memory);
  for (int64_t k = 0; k < count; ++k) {
    double sum = 0;
    for (int64_t share = 0; share < shares; ++share) sum += sums_of(share)[k];
    total[k] = static_cast<float>(sum);
  }
  K::Round(total, count, dw);
}

template <typename K, typename T>
void Run(const Problem& p, void* const buffers[3], Slot& slot) {
  const auto* a = static_cast<const T*>(buffers[0]);
  const auto* b = static_cast<const T*>(buffers[1]);
  auto* out = static_cast<T*>(buffers[2]);
  if (p.op == kFilterGrad) {
    FilterGrad<K>(p, a, b, out, slot);
  } else {
    Convolve<K>(p, a, b, out);
  }
}

template <typename T>
void RunHere(const Problem& p, void* const buffers[3], Slot& slot) {
  if (Has(dnnl::cpu_isa::avx512_core)) {
    Run<avx512::Depthwise<T>, T>(p, buffers, slot);
  } else {
    Run<avx2::Depthwise<T>, T>(p, buffers, slot);
  }
}

// Returns a problem of two spatial axes. Of the sizes of one axis, the second comes first.
Problem WithTwoAxes(Problem p) {
  if (p.ndim == 2) return p;
  for (auto* sizes : {p.in, p.window, p.out, p.strides, p.dilation}) sizes[1] = sizes[0], sizes[0] = 1;
  for (auto* sizes : {p.lo, p.hi}) sizes[1] = sizes[0], sizes[0] = 0;
  return p;
}

ffi::Error ConvolveDepthwise(ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::Result<ffi::AnyBuffer> out,
                             ffi::Span<const int64_t> problem) {
  if (problem.size() * sizeof(int64_t) != sizeof(Problem)) {
    return ffi::Error::InvalidArgument("the problem has the wrong number of entries");
  }
  Problem p;
  std::memcpy(&p, problem.begin(), sizeof p);
  p = WithTwoAxes(p);
  void* const buffers[] = {a.untyped_data(), b.untyped_data(), out->untyped_data()};
  return TakeTurn(Work(p) < kLeastToShare, [&](Slot& slot) {
    (p.dtype == kFloat32 ? RunHere<float> : RunHere<Bfloat16>)(p, buffers, slot);
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnJaxDepthwise, ConvolveDepthwise,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<ffi::Span<const int64_t>>("problem"));

}  // namespace cnn_jax
