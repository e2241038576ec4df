// The inner loops of depthwise.cc for one instruction set, with LANES float32 numbers in a vector. As in
// vectors.h, everything has internal linkage.
//
// The last vector of features overlaps the one before it if their number is not a multiple of LANES.

// Computes Q outputs, `out_step` numbers apart, as sums over taps: tap t of output q multiplies
// `width` features at `x + offsets[t] + q * x_step` by those at `w + places[t]`.
template <int Q, typename T>
inline void Convolve(const T* x, const int64_t* offsets, int64_t x_step, const T* w,
                     const int64_t* places, int64_t taps, int64_t width, T* out, int64_t out_step) {
  if (width >= LANES) {
    Vec sums[Q] = {};
    for (int64_t t = 0; t < taps; ++t) {
      const Vec weight = Load(w + places[t]);
      const T* const from = x + offsets[t];
#pragma GCC unroll 9
      for (int q = 0; q < Q; ++q) sums[q] += weight * Load(from + q * x_step);
    }
#pragma GCC unroll 9
    for (int q = 0; q < Q; ++q) Store(out + q * out_step, sums[q]);
    return;
  }
  for (int q = 0; q < Q; ++q) {
    Vec sum = {};
    for (int64_t t = 0; t < taps; ++t) {
      sum += Load(w + places[t], width) * Load(x + offsets[t] + q * x_step, width);
    }
    Store(out + q * out_step, sum, width);
  }
}

// Adds to the float32 numbers at `sums + places[n]`, for N taps, the products of `count` neighbours at dy,
// `dy_step` numbers apart, with those at `x + offsets[n]`, which are `x_step` apart. The first
// `skipped` of `width` features stay as they are.
template <int N, typename T>
inline void AddProducts(const T* x, const int64_t* offsets, int64_t x_step, const T* dy,
                        int64_t dy_step, int64_t count, int64_t width, int64_t skipped, float* sums,
                        const int64_t* places) {
  Vec added[N] = {};
  if (width >= LANES) {
    for (int64_t j = 0; j < count; ++j, x += x_step, dy += dy_step) {
      const Vec gradient = Load(dy);
#pragma GCC unroll 9
      for (int n = 0; n < N; ++n) added[n] += gradient * Load(x + offsets[n]);
    }
  } else {
    for (int64_t j = 0; j < count; ++j, x += x_step, dy += dy_step) {
      const Vec gradient = Load(dy, width);
#pragma GCC unroll 9
      for (int n = 0; n < N; ++n) added[n] += gradient * Load(x + offsets[n], width);
    }
  }
  float part[LANES];
#pragma GCC unroll 9
  for (int n = 0; n < N; ++n) {
    float* const sum = sums + places[n];
    if (width >= LANES && !skipped) {
      Store(sum, Load(sum) + added[n]);
    } else {
      Store(part, added[n]);
      for (int64_t i = skipped; i < (width < LANES ? width : LANES); ++i) sum[i] += part[i];
    }
  }
}

// Calls `each(c, width, skipped)` for vectors of `width` features from c on, of which the first `skipped`
// were in the vector before.
template <typename F>
inline void ForVectors(int64_t features, const F& each) {
  int64_t c = 0;
  for (; c + LANES <= features; c += LANES) each(c, LANES, 0);
  if (c == features) return;
  if (features < LANES) return each(0, features, 0);
  each(features - LANES, LANES, c + LANES - features);
}

// For numbers of type T and any number of outputs, taps and features.
template <typename T>
struct Depthwise {
  static constexpr int kTaps = LANES == 16 ? 9 : 5;  // at once, in registers

  static void Outputs(int64_t count, const T* x, const int64_t* offsets, int64_t x_step, const T* w,
                      const int64_t* places, int64_t taps, int64_t features, T* out,
                      int64_t out_step) {
    const auto compute = [&](auto outputs) {
      for (; count >= outputs; count -= outputs, x += outputs * x_step, out += outputs * out_step) {
        ForVectors(features, [&](int64_t c, int64_t width, int64_t) {
          Convolve<outputs>(x + c, offsets, x_step, w + c, places, taps, width, out + c, out_step);
        });
      }
    };
    compute(std::integral_constant<int, 8>{});
    compute(std::integral_constant<int, 4>{});
    compute(std::integral_constant<int, 1>{});
  }

  static void Products(int64_t taps, const T* x, const int64_t* offsets, int64_t x_step, const T* dy,
                       int64_t count, int64_t features, float* sums, const int64_t* places) {
    int64_t t = 0;
    for (; t + kTaps <= taps; t += kTaps) {
      Add<kTaps>(x, offsets + t, x_step, dy, count, features, sums, places + t);
    }
    for (; t + 3 <= taps; t += 3) {
      Add<3>(x, offsets + t, x_step, dy, count, features, sums, places + t);
    }
    for (; t < taps; ++t) Add<1>(x, offsets + t, x_step, dy, count, features, sums, places + t);
  }

  static void Round(const float* from, int64_t count, T* to) {
    for (int64_t i = 0; i < count; i += LANES) Store(to + i, Load(from + i, count - i), count - i);
  }

 private:
  template <int N>
  static void Add(const T* x, const int64_t* offsets, int64_t x_step, const T* dy, int64_t count,
                  int64_t features, float* sums, const int64_t* places) {
    ForVectors(features, [&](int64_t c, int64_t width, int64_t skipped) {
      AddProducts<N>(x + c, offsets, x_step, dy + c, features, count, width, skipped, sums + c, places);
    });
  }
};
