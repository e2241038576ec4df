// Winograd's minimal filtering for one instruction set, with LANES float32 numbers in a vector and ROWS
// of a product at once. As in vectors.h, everything has internal linkage.

constexpr int kPanel = 2 * LANES;  // columns of a product at once

// The 1-D transforms of F(M, 3) for vectors `in[0], in[step], ...`. See winograd.cc for the matrices.
template <int M>
struct Filtering;

template <>
struct Filtering<2> {  // points 0, 1, -1 and infinity
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
struct Filtering<4> {  // points 0, a, -a, b, -b and infinity, with a = sqrt(1/2) and b = sqrt(2)
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

// c (R x kPanel) = or += a (R x depth) b (depth x kPanel). Steps are in elements.
template <int R, bool kAdd>
void Product(int64_t depth, const float* a, int64_t row_step, int64_t step, const float* b,
             float* c) {
  Vec sums[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    sums[r][0] = kAdd ? Load(c + r * kPanel) : Zero();
    sums[r][1] = kAdd ? Load(c + r * kPanel + LANES) : Zero();
  }
  for (int64_t k = 0; k < depth; ++k, a += step, b += kPanel) {
    const Vec b0 = Load(b), b1 = Load(b + LANES);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      sums[r][0] += a[r * row_step] * b0;
      sums[r][1] += a[r * row_step] * b1;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    Store(c + r * kPanel, sums[r][0]);
    Store(c + r * kPanel + LANES, sums[r][1]);
  }
}

// The same for any number of rows.
template <bool kAdd, int R = ROWS>
void Products(int64_t rows, int64_t depth, const float* a, int64_t row_step, int64_t step,
              const float* b, float* c) {
  if constexpr (R > 0) {
    for (; rows >= R; rows -= R, a += R * row_step, c += R * kPanel) {
      Product<R, kAdd>(depth, a, row_step, step, b, c);
    }
    if (rows) Products<kAdd, R - 1>(rows, depth, a, row_step, step, b, c);
  }
}

// One convolution, as a forward map: the gradient of the input is one too, of dy and the kernel
// turned around.
//
// N is the number of axes. A sequence is an image of height 1.
template <typename T, int M, int N>
struct Winograd {
  static constexpr int kTile = M + 2, kTileHigh = N == 1 ? 1 : kTile, kHigh = N == 1 ? 1 : M;
  static constexpr int kTaps = kTileHigh * kTile, kOutputs = kHigh * M, kKernel = N == 1 ? 3 : 9;
  static constexpr int kColumns = kPanel;

  const Shape& s;
  const int64_t panels = (s.out_features + kPanel - 1) / kPanel;
  const int64_t pitch = (s.in_features + LANES - 1) / LANES * LANES + LANES;
  const int64_t tiles_high = (s.out[0] + kHigh - 1) / kHigh, tiles_wide = (s.out[1] + M - 1) / M;
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
  int64_t KernelSize() const { return panels * kTaps * s.in_features * kPanel; }
  int64_t DataSize(int64_t count) const { return kTaps * count * pitch; }
  int64_t PanelSize(int64_t count) const { return kTaps * count * kPanel; }

  // Transforms the kernels of input features [from, to): u[panel][tap][feature][kPanel].
  void TransformKernel(const T* w, int64_t from, int64_t to, float* u) const {
    for (int64_t p = 0; p < panels; ++p) {
      for (int64_t c = from; c < to; ++c) {
        for (int half = 0; half < kPanel; half += LANES) {
          Vec in[kKernel], out[kTaps];
          LoadKernel(w, c, p * kPanel + half, in);
          Transform<N, 3, kTile, Filtering<M>::Kernel>(in, out);
          for (int k = 0; k < kTaps; ++k) {
            Store(u + ((p * kTaps + k) * s.in_features + c) * kPanel + half, out[k]);
          }
        }
      }
    }
  }

  // Reads the taps of one input feature for a vector of output features.
  void LoadKernel(const T* w, int64_t c, int64_t feature, Vec (&taps)[kKernel]) const {
    const int64_t count = s.out_features - feature;
    for (int k = 0; k < kKernel; ++k) {
      if (count <= 0) {
        taps[k] = Zero();
      } else if (!s.turned) {
        taps[k] = Load(w + (k * s.in_features + c) * s.out_features + feature, count);
      } else {  // w has shape (*window, out_features, in_features)
        T row[LANES] = {};
        const T* from = w + ((kKernel - 1 - k) * s.out_features + feature) * s.in_features + c;
        for (int i = 0; i < LANES && i < count; ++i) row[i] = from[i * s.in_features];
        taps[k] = Load(row);
      }
    }
  }

  // Transforms the inputs of tiles [from, to): v[tap][tile][pitch], where taps are `count` tiles apart.
  void TransformData(const T* x, int64_t from, int64_t to, int64_t count, float* v) const {
    for (int64_t t = from; t < to; ++t, v += pitch) {
      const auto [image, first_row, first_column] = Locate(t);
      const int64_t row = first_row - s.low[0], column = first_column - s.low[1];
      const T* pixels[kTaps];
      for (int i = 0; i < kTileHigh; ++i) {
        for (int j = 0; j < kTile; ++j) {
          const int64_t r = row + i, c = column + j;
          const bool inside = r >= 0 && r < s.in[0] && c >= 0 && c < s.in[1];
          pixels[i * kTile + j] =
              inside ? x + ((image * s.in[0] + r) * s.in[1] + c) * s.in_features : nullptr;
        }
      }
      for (int64_t c = 0; c < s.in_features; c += LANES) {
        Vec in[kTaps], out[kTaps];
        const int64_t left = s.in_features - c;
#pragma GCC unroll 36
        for (int k = 0; k < kTaps; ++k) in[k] = pixels[k] ? Load(pixels[k] + c, left) : Zero();
        Transform<N, kTile, kTile, Filtering<M>::Data>(in, out);
#pragma GCC unroll 36
        for (int k = 0; k < kTaps; ++k) Store(v + k * count * pitch + c, out[k]);
      }
    }
  }

  // Computes the outputs of tiles [from, to). `v` and `m` hold DataSize and PanelSize of the tiles.
  void Convolve(const T* x, const float* u, T* y, int64_t from, int64_t to, float* v,
                float* m) const {
    const int64_t count = to - from;
    TransformData(x, from, to, count, v);
    for (int64_t p = 0; p < panels; ++p) {
      for (int k = 0; k < kTaps; ++k) {
        Products<false>(count, s.in_features, v + k * count * pitch, pitch, 1,
                        u + (p * kTaps + k) * s.in_features * kPanel, m + k * count * kPanel);
      }
      TransformOutputs(m, p * kPanel, from, to, y);
    }
  }

  void TransformOutputs(const float* m, int64_t feature, int64_t from, int64_t to, T* y) const {
    const int64_t count = to - from;
    for (int64_t t = from; t < to; ++t, m += kPanel) {
      const auto [image, row, column] = Locate(t);
      for (int half = 0; half < kPanel; half += LANES) {
        const int64_t left = s.out_features - feature - half;
        if (left <= 0) break;
        Vec in[kTaps], out[kOutputs];
#pragma GCC unroll 36
        for (int k = 0; k < kTaps; ++k) in[k] = Load(m + k * count * kPanel + half);
        Transform<N, kTile, M, Filtering<M>::Output>(in, out);
        for (int i = 0; i < kHigh && row + i < s.out[0]; ++i) {
          T* to_row = y + ((image * s.out[0] + row + i) * s.out[1] + column) * s.out_features +
                      feature + half;
          for (int j = 0; j < M && column + j < s.out[1]; ++j) {
            Store(to_row + j * s.out_features, out[i * M + j], left);
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
            in[i * M + j] = inside ? Load(dy + ((image * s.out[0] + row + i) * s.out[1] + column + j) *
                                                   s.out_features + f, left)
                                   : Zero();
          }
        }
        Transform<N, M, kTile, Filtering<M>::OutputT>(in, out);
        float* to_panel = z + f / kPanel * kTaps * count * kPanel + f % kPanel;
#pragma GCC unroll 36
        for (int k = 0; k < kTaps; ++k) Store(to_panel + k * count * kPanel, out[k]);
      }
    }
  }

  // Adds the products of `count` tiles to du[panel][tap][feature][kPanel], or starts it with them.
  void AddGradient(const float* v, const float* z, int64_t count, bool first, int64_t p, int64_t k,
                   float* du) const {
    const int64_t place = p * kTaps + k;
    (first ? Products<false> : Products<true>)(s.in_features, count, v + k * count * pitch, 1, pitch,
                                               z + place * count * kPanel,
                                               du + place * s.in_features * kPanel);
  }

  // Transforms du back to the kernel's gradient for input features [from, to).
  void TransformKernelGradient(const float* du, int64_t from, int64_t to, T* dw) const {
    for (int64_t c = from; c < to; ++c) {
      for (int64_t f = 0; f < s.out_features; f += LANES) {
        Vec in[kTaps], out[kKernel];
        const float* part = du + (f / kPanel * kTaps * s.in_features + c) * kPanel + f % kPanel;
        for (int k = 0; k < kTaps; ++k) in[k] = Load(part + k * s.in_features * kPanel);
        Transform<N, kTile, 3, Filtering<M>::KernelT>(in, out);
        for (int k = 0; k < kKernel; ++k) {
          Store(dw + (k * s.in_features + c) * s.out_features + f, out[k], s.out_features - f);
        }
      }
    }
  }
};
