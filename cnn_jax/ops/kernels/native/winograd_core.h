// Winograd's minimal filtering for one instruction set, with LANES float32 numbers in a vector and ROWS
// of a product at once. As in vectors.h, everything has internal linkage.

#include "products.h"

// The 1-D transforms of F(M, R) for vectors `in[0], in[step], ...`. See winograd.cc for the matrices.
template <int M, int R>
struct Filtering;

template <>
struct Filtering<2, 3> {  // points 0, 1, -1 and infinity
  static inline void Data(const Vec* in, int step, Vec* out, int out_step) {
    const Vec a = in[0], b = in[step], c = in[2 * step], d = in[3 * step];
    out[0] = a - c, out[out_step] = b + c, out[2 * out_step] = c - b, out[3 * out_step] = b - d;
  }
  static inline void Kernel(const Vec* in, int step, Vec* out, int out_step) {
    const Vec even = 0.5f * (in[0] + in[2 * step]), odd = 0.5f * in[step];
    out[0] = in[0], out[out_step] = even + odd, out[2 * out_step] = even - odd;
    out[3 * out_step] = in[2 * step];
  }
  static inline void Output(const Vec* in, int step, Vec* out, int out_step) {
    out[0] = in[0] + (in[step] + in[2 * step]);
    out[out_step] = (in[step] - in[2 * step]) - in[3 * step];
  }
  static inline void OutputT(const Vec* in, int step, Vec* out, int out_step) {
    out[0] = in[0], out[out_step] = in[0] + in[step], out[2 * out_step] = in[0] - in[step];
    out[3 * out_step] = -in[step];
  }
  static inline void KernelT(const Vec* in, int step, Vec* out, int out_step) {
    const Vec even = 0.5f * (in[step] + in[2 * step]);
    out[0] = in[0] + even, out[out_step] = 0.5f * (in[step] - in[2 * step]);
    out[2 * out_step] = even + in[3 * step];
  }
};

template <>
struct Filtering<4, 2> {  // points a, -a, b, -b and infinity, with a = 1/2 and b = 5/4
  static constexpr float kA = 0.5f, kB = 1.25f, kA2 = kA * kA, kB2 = kB * kB;
  static constexpr float kScale = 0.5f / (kA2 - kB2);
  static inline void Data(const Vec* in, int step, Vec* out, int out_step) {
    const Vec d0 = in[0], d1 = in[step], d2 = in[2 * step], d3 = in[3 * step], d4 = in[4 * step];
    const Vec even_a = kA * (d2 - kB2 * d0), odd_a = d3 - kB2 * d1;
    const Vec even_b = kB * (d2 - kA2 * d0), odd_b = d3 - kA2 * d1;
    out[0] = odd_a + even_a, out[out_step] = odd_a - even_a;
    out[2 * out_step] = odd_b + even_b, out[3 * out_step] = odd_b - even_b;
    out[4 * out_step] = (d4 - (kA2 + kB2) * d2) + (kA2 * kB2) * d0;
  }
  static inline void Kernel(const Vec* in, int step, Vec* out, int out_step) {
    const Vec w0 = in[0], w1 = in[step], half = kScale * w1;
    const Vec a = (kScale / kA) * w0, b = (kScale / kB) * w0;
    out[0] = half + a, out[out_step] = half - a;
    out[2 * out_step] = -half - b, out[3 * out_step] = b - half;
    out[4 * out_step] = w1;
  }
  static inline void Output(const Vec* in, int step, Vec* out, int out_step) {
    const Vec even_a = in[0] + in[step], odd_a = in[0] - in[step];
    const Vec even_b = in[2 * step] + in[3 * step], odd_b = in[2 * step] - in[3 * step];
    out[0] = even_a + even_b;
    out[out_step] = kA * odd_a + kB * odd_b;
    out[2 * out_step] = kA2 * even_a + kB2 * even_b;
    out[3 * out_step] = (kA2 * kA) * odd_a + ((kB2 * kB) * odd_b + in[4 * step]);
  }
  static inline void OutputT(const Vec* in, int step, Vec* out, int out_step) {
    const Vec y0 = in[0], y1 = in[step], y2 = in[2 * step], y3 = in[3 * step];
    const Vec even_a = y0 + kA2 * y2, odd_a = kA * (y1 + kA2 * y3);
    const Vec even_b = y0 + kB2 * y2, odd_b = kB * (y1 + kB2 * y3);
    out[0] = even_a + odd_a, out[out_step] = even_a - odd_a;
    out[2 * out_step] = even_b + odd_b, out[3 * out_step] = even_b - odd_b;
    out[4 * out_step] = y3;
  }
  static inline void KernelT(const Vec* in, int step, Vec* out, int out_step) {
    const Vec even_a = in[0] + in[step], odd_a = in[0] - in[step];
    const Vec even_b = in[2 * step] + in[3 * step], odd_b = in[2 * step] - in[3 * step];
    out[0] = (kScale / kA) * odd_a - (kScale / kB) * odd_b;
    out[out_step] = kScale * (even_a - even_b) + in[4 * step];
  }
};

template <>
struct Filtering<4, 3> {  // points 0, a, -a, b, -b and infinity, with a = sqrt(1/2) and b = sqrt(2)
  static constexpr float kA = 0.70710678118654752f, kB = 1.41421356237309505f;
  static inline void Data(const Vec* in, int step, Vec* out, int out_step) {
    const Vec d0 = in[0], d1 = in[step], d2 = in[2 * step], d3 = in[3 * step], d4 = in[4 * step],
              d5 = in[5 * step];
    const Vec even_a = d4 - 2.0f * d2, odd_a = kA * (d3 - 2.0f * d1);
    const Vec even_b = d4 - 0.5f * d2, odd_b = kB * (d3 - 0.5f * d1);
    out[0] = d0 + (d4 - 2.5f * d2);
    out[out_step] = even_a + odd_a, out[2 * out_step] = even_a - odd_a;
    out[3 * out_step] = even_b + odd_b, out[4 * out_step] = even_b - odd_b;
    out[5 * out_step] = d1 + (d5 - 2.5f * d3);
  }
  static inline void Kernel(const Vec* in, int step, Vec* out, int out_step) {
    const Vec w0 = in[0], w1 = in[step], w2 = in[2 * step];
    const Vec even_a = (-2 / 3.0f) * w0 - (1 / 3.0f) * w2, odd_a = (-2 * kA / 3) * w1;
    const Vec even_b = (1 / 6.0f) * w0 + (1 / 3.0f) * w2, odd_b = (kB / 6) * w1;
    out[0] = w0;
    out[out_step] = even_a + odd_a, out[2 * out_step] = even_a - odd_a;
    out[3 * out_step] = even_b + odd_b, out[4 * out_step] = even_b - odd_b;
    out[5 * out_step] = w2;
  }
  static inline void Output(const Vec* in, int step, Vec* out, int out_step) {
    const Vec even_a = in[step] + in[2 * step], odd_a = in[step] - in[2 * step];
    const Vec even_b = in[3 * step] + in[4 * step], odd_b = in[3 * step] - in[4 * step];
    out[0] = in[0] + (even_a + even_b);
    out[out_step] = kA * odd_a + kB * odd_b;
    out[2 * out_step] = 0.5f * even_a + 2.0f * even_b;
    out[3 * out_step] = (0.5f * kA) * odd_a + ((2 * kB) * odd_b + in[5 * step]);
  }
  static inline void OutputT(const Vec* in, int step, Vec* out, int out_step) {
    const Vec y0 = in[0], y1 = in[step], y2 = in[2 * step], y3 = in[3 * step];
    const Vec even_a = y0 + 0.5f * y2, odd_a = kA * (y1 + 0.5f * y3);
    const Vec even_b = y0 + 2.0f * y2, odd_b = kB * (y1 + 2.0f * y3);
    out[0] = y0;
    out[out_step] = even_a + odd_a, out[2 * out_step] = even_a - odd_a;
    out[3 * out_step] = even_b + odd_b, out[4 * out_step] = even_b - odd_b;
    out[5 * out_step] = y3;
  }
  static inline void KernelT(const Vec* in, int step, Vec* out, int out_step) {
    const Vec even_a = in[step] + in[2 * step], odd_a = in[step] - in[2 * step];
    const Vec even_b = in[3 * step] + in[4 * step], odd_b = in[3 * step] - in[4 * step];
    out[0] = in[0] + ((1 / 6.0f) * even_b - (2 / 3.0f) * even_a);
    out[out_step] = (kB / 6) * odd_b - (2 * kA / 3) * odd_a;
    out[2 * out_step] = (1 / 3.0f) * (even_b - even_a) + in[5 * step];
  }
};

typedef void Transform1D(const Vec* in, int step, Vec* out, int out_step);

// Applies a transform of I to O numbers along each of the N axes of a tile.
template <int N, int I, int O, Transform1D* apply, int In, int Out>
inline void Transform(const Vec (&in)[In], Vec (&out)[Out]) {
  if constexpr (N == 1) {
    apply(in, 1, out, 1);
  } else {
    Vec half[O * I];
#pragma GCC unroll 6
    for (int i = 0; i < I; ++i) apply(in + i, I, half + i, I);
#pragma GCC unroll 6
    for (int i = 0; i < O; ++i) apply(half + i * I, 1, out + i * O, 1);
  }
}

// One convolution of stride 1, as a forward map (see `Shape`), in tiles of M outputs along an axis.
//
// N is the number of axes. A sequence is an image of height 1.
template <typename T, int M, int R, int N>
struct Winograd {
  static constexpr int kTile = M + R - 1, kTileHigh = N == 1 ? 1 : kTile, kHigh = N == 1 ? 1 : M;
  static constexpr int kTaps = kTileHigh * kTile, kOutputs = kHigh * M;
  static constexpr int kKernelHigh = N == 1 ? 1 : R, kKernel = kKernelHigh * R;
  static constexpr int kRows = ROWS, kColumns = kPanel;

  const Shape& s;
  const int64_t depth = s.in_features * s.in_phases[0] * s.in_phases[1];
  const int64_t panels = (s.out_features + kPanel - 1) / kPanel;
  const int64_t pitch = (depth + LANES - 1) / LANES * LANES + LANES;
  const int64_t tiles_high = (s.outputs[0] + kHigh - 1) / kHigh;
  const int64_t tiles_wide = (s.outputs[1] + M - 1) / M;
  const int64_t tiles = s.batch * tiles_high * tiles_wide;

  // The image of a tile and its first output.
  struct Place {
    int64_t image, row, column;
  };

  Place Locate(int64_t tile) const {
    const int64_t of_image = tiles_high * tiles_wide, place = tile % of_image;
    return {tile / of_image, place / tiles_wide * kHigh, place % tiles_wide * M};
  }

  // Floats that the transformed kernel, a block of `count` transformed tiles, and one panel of their
  // products need.
  int64_t KernelSize() const { return panels * kTaps * depth * kPanel; }
  int64_t DataSize(int64_t count) const { return kTaps * count * pitch; }
  int64_t PanelSize(int64_t count) const { return kTaps * count * kPanel; }

  // Transforms the kernels of features [from, to) of `depth`: u[panel][tap][feature][kPanel].
  void TransformKernel(const T* w, int64_t from, int64_t to, float* u) const {
    for (int64_t p = 0; p < panels; ++p) {
      for (int64_t c = from; c < to; ++c) {
        for (int half = 0; half < kPanel; half += LANES) {
          Vec in[kKernel], out[kTaps];
          LoadKernel(w, c, p * kPanel + half, in);
          Transform<N, R, kTile, Filtering<M, R>::Kernel>(in, out);
          for (int k = 0; k < kTaps; ++k) {
            Store(u + ((p * kTaps + k) * depth + c) * kPanel + half, out[k]);
          }
        }
      }
    }
  }

  // Returns the place of tap (i, j) in the window, or -1 if the window is shorter. `phase` counts
  // those of the input.
  int64_t Tap(int i, int j, int64_t phase) const {
    int64_t row, column;
    if (s.turned) {
      row = s.kernel_phase[0] + (kKernelHigh - 1 - i) * s.strides[0];
      column = s.kernel_phase[1] + (R - 1 - j) * s.strides[1];
    } else {
      row = phase / s.in_phases[1] + i * s.strides[0];
      column = phase % s.in_phases[1] + j * s.strides[1];
    }
    return row < s.window[0] && column < s.window[1] ? row * s.window[1] + column : -1;
  }

  // Reads the taps of feature c of `depth` for a vector of output features.
  void LoadKernel(const T* w, int64_t c, int64_t feature, Vec (&taps)[kKernel]) const {
    const int64_t count = s.out_features - feature;
    const int64_t phase = c / s.in_features, own = c % s.in_features;
    for (int k = 0; k < kKernel; ++k) {
      const int64_t tap = Tap(k / R, k % R, phase);
      if (count <= 0 || tap < 0) {
        taps[k] = Zero();
      } else if (!s.turned) {
        taps[k] = Load(w + (tap * s.in_features + own) * s.out_features + feature, count);
      } else {  // w has shape (*window, out_features, in_features)
        T row[LANES] = {};
        const T* from = w + (tap * s.out_features + feature) * s.in_features + own;
        for (int i = 0; i < LANES && i < count; ++i) row[i] = from[i * s.in_features];
        taps[k] = Load(row);
      }
    }
  }

  // Transforms the inputs of tiles [from, to): v[tap][tile][pitch], where taps are `count` tiles apart.
  void TransformData(const T* x, int64_t from, int64_t to, int64_t count, float* v) const {
    for (int64_t t = from; t < to; ++t, v += pitch) {
      const Place place = Locate(t);
      for (int64_t i = 0; i < s.in_phases[0]; ++i) {
        for (int64_t j = 0; j < s.in_phases[1]; ++j) {
          TransformPhase(x, place, i, j, count, v + (i * s.in_phases[1] + j) * s.in_features);
        }
      }
    }
  }

  // The last vector may reach into the features of the next phase, which is written later.
  void TransformPhase(const T* x, const Place& place, int64_t phase_high, int64_t phase_wide,
                      int64_t count, float* v) const {
    const T* pixels[kTaps];
    for (int i = 0; i < kTileHigh; ++i) {
      for (int j = 0; j < kTile; ++j) {
        const int64_t r = (place.row + i) * s.in_phases[0] + phase_high - s.low[0];
        const int64_t c = (place.column + j) * s.in_phases[1] + phase_wide - s.low[1];
        const bool inside = r >= 0 && r < s.in[0] && c >= 0 && c < s.in[1];
        pixels[i * kTile + j] =
            inside ? x + ((place.image * s.in[0] + r) * s.in[1] + c) * s.in_features : nullptr;
      }
    }
    const int64_t next = M * s.in_phases[1] * s.in_features;  // the same pixel of the next tile
    for (int64_t c = 0; c < s.in_features; c += LANES) {
      Vec in[kTaps], out[kTaps];
      const int64_t left = s.in_features - c;
#pragma GCC unroll 36
      for (int k = 0; k < kTaps; ++k) {
        in[k] = pixels[k] ? Load(pixels[k] + c, left) : Zero();
        if (pixels[k] && k % kTile >= R - 1) __builtin_prefetch(pixels[k] + c + next);
      }
      Transform<N, kTile, kTile, Filtering<M, R>::Data>(in, out);
#pragma GCC unroll 36
      for (int k = 0; k < kTaps; ++k) Store(v + k * count * pitch + c, out[k]);
    }
  }

  // Computes the outputs of tiles [from, to). `v` and `m` hold DataSize and PanelSize of the tiles.
  void Convolve(const T* x, const float* u, T* y, int64_t from, int64_t to, float* v,
                float* m) const {
    const int64_t count = to - from;
    TransformData(x, from, to, count, v);
    for (int64_t p = 0; p < panels; ++p) {
      for (int k = 0; k < kTaps; ++k) {
        Products<2, false>(count, depth, v + k * count * pitch, pitch, 1,
                           u + (p * kTaps + k) * depth * kPanel, m + k * count * kPanel, kPanel);
      }
      TransformOutputs(m, p * kPanel, from, to, y);
    }
  }

  void TransformOutputs(const float* m, int64_t feature, int64_t from, int64_t to, T* y) const {
    const int64_t count = to - from;
    const int64_t column_step = s.out_phases[1] * s.out_features;
    for (int64_t t = from; t < to; ++t, m += kPanel) {
      const auto [image, row, column] = Locate(t);
      for (int half = 0; half < kPanel; half += LANES) {
        const int64_t left = s.out_features - feature - half;
        if (left <= 0) break;
        Vec in[kTaps], out[kOutputs];
#pragma GCC unroll 36
        for (int k = 0; k < kTaps; ++k) in[k] = Load(m + k * count * kPanel + half);
        Transform<N, kTile, M, Filtering<M, R>::Output>(in, out);
        for (int i = 0; i < kHigh && row + i < s.outputs[0]; ++i) {
          const int64_t r = (row + i) * s.out_phases[0] + s.out_phase[0];
          const int64_t c = column * s.out_phases[1] + s.out_phase[1];
          T* to_row = y + ((image * s.out[0] + r) * s.out[1] + c) * s.out_features + feature + half;
          for (int j = 0; j < M && column + j < s.outputs[1]; ++j) {
            Store(to_row + j * column_step, out[i * M + j], left);
            __builtin_prefetch(to_row + (j + M) * column_step, 1);
          }
        }
      }
    }
  }

  // Transforms the output gradients of tiles [from, to): z[panel][tap][tile][kPanel], for `count` tiles.
  void TransformGradients(const T* dy, int64_t from, int64_t to, int64_t count, float* z) const {
    for (int64_t t = from; t < to; ++t, z += kPanel) {
      const auto [image, row, column] = Locate(t);
      for (int64_t f = 0; f < panels * kPanel; f += LANES) {
        const int64_t left = s.out_features - f;
        Vec in[kOutputs], out[kTaps];
        for (int i = 0; i < kHigh; ++i) {
          for (int j = 0; j < M; ++j) {
            const bool inside = left > 0 && row + i < s.out[0] && column + j < s.out[1];
            const T* pixel =
                dy + ((image * s.out[0] + row + i) * s.out[1] + column + j) * s.out_features + f;
            in[i * M + j] = inside ? Load(pixel, left) : Zero();
            if (inside) __builtin_prefetch(pixel + M * s.out_features);
          }
        }
        Transform<N, M, kTile, Filtering<M, R>::OutputT>(in, out);
        float* to_panel = z + f / kPanel * kTaps * count * kPanel + f % kPanel;
#pragma GCC unroll 36
        for (int k = 0; k < kTaps; ++k) Store(to_panel + k * count * kPanel, out[k]);
      }
    }
  }

  // Adds the products of `count` tiles to du[panel][tap][feature][kPanel], or starts it with them, for
  // features [from, to) of `depth`, panel p and tap k.
  void AddGradient(const float* v, const float* z, int64_t count, bool first, int64_t p, int64_t k,
                   int64_t from, int64_t to, float* du) const {
    const int64_t place = p * kTaps + k;
    const auto multiply = first ? Products<2, false> : Products<2, true>;
    multiply(to - from, count, v + k * count * pitch + from, 1, pitch, z + place * count * kPanel,
             du + (place * depth + from) * kPanel, kPanel);
  }

  // Transforms du back to the kernel's gradient for features [from, to) of `depth` and panel p.
  void TransformKernelGradient(const float* du, int64_t p, int64_t from, int64_t to, T* dw) const {
    for (int64_t c = from; c < to; ++c) {
      const int64_t phase = c / s.in_features, own = c % s.in_features;
      for (int half = 0; half < kPanel; half += LANES) {
        const int64_t f = p * kPanel + half, left = s.out_features - f;
        if (left <= 0) break;
        Vec in[kTaps], out[kKernel];
        const float* part = du + (p * kTaps * depth + c) * kPanel + half;
        for (int k = 0; k < kTaps; ++k) in[k] = Load(part + k * depth * kPanel);
        Transform<N, kTile, R, Filtering<M, R>::KernelT>(in, out);
        for (int k = 0; k < kKernel; ++k) {
          const int64_t tap = Tap(k / R, k % R, phase);
          if (tap >= 0) Store(dw + (tap * s.in_features + own) * s.out_features + f, out[k], left);
        }
      }
    }
  }
};
