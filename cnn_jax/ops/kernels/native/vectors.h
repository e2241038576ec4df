// Vectors of LANES float32 numbers. instruction_sets.h includes this file once for each instruction
// set, and so it does the files that use it.
//
// Everything has internal linkage and uses no template of another file. Otherwise the linker could
// take a function compiled for AVX-512 for a processor without it.

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef float VecInMemory __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), aligned(2)));

inline Vec Zero() { return Vec{}; }

inline Vec Load(const float* p) { return *reinterpret_cast<const VecInMemory*>(p); }

inline Vec Load(const Bfloat16* p) {
  const auto bits = __builtin_convertvector(*reinterpret_cast<const Halves*>(p), Ints) << 16;
  return (Vec)bits;
}

inline void Store(float* p, Vec v) { *reinterpret_cast<VecInMemory*>(p) = v; }

inline void Store(Bfloat16* p, Vec v) {  // rounds to nearest, ties to even; keeps NaN
  const Ints bits = (Ints)v;
  const Ints rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Ints chosen = v == v ? rounded : (bits >> 16) | 0x40;
  *reinterpret_cast<Halves*>(p) = __builtin_convertvector(chosen, Halves);
}

// Loads or stores the first `count` numbers; the others are zeros.
template <typename T>
inline Vec Load(const T* p, int64_t count) {
  if (count >= LANES) return Load(p);
  T part[LANES] = {};
  for (int64_t i = 0; i < count; ++i) part[i] = p[i];
  return Load(part);
}

template <typename T>
inline void Store(T* p, Vec v, int64_t count) {
  if (count >= LANES) return Store(p, v);
  T part[LANES];
  Store(part, v);
  for (int64_t i = 0; i < count; ++i) p[i] = part[i];
}
