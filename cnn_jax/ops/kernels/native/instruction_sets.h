// Includes vectors.h and CORE once for each instruction set, in the namespaces avx512 and avx2, with LANES
// float32 numbers in a vector and ROWS of a product at once, for which the registers suffice.

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif
namespace avx512 {
#define LANES 16
#define ROWS 14
#include "vectors.h"
#include CORE
#undef LANES
#undef ROWS
}  // namespace avx512
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
#define LANES 8
#define ROWS 6
#include "vectors.h"
#include CORE
#undef LANES
#undef ROWS
}  // namespace avx2
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
