// Measures how fast this processor multiplies bfloat16.

#include <algorithm>
#include <chrono>

#include "oneapi/dnnl/dnnl.hpp"

// `turns` times 15 independent products and sums of vectors of zeros; more than are in flight.
#define CNN_JAX_REPEAT(instruction)                                                             \
  asm volatile(                                                                                 \
      ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\t"                                        \
      "vpxord %%zmm\\i, %%zmm\\i, %%zmm\\i\n\t"                                                 \
      ".endr\n"                                                                                 \
      "1:\n\t"                                                                                  \
      ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14\n\t" instruction                               \
      " %%zmm15, %%zmm15, %%zmm\\i\n\t"                                                         \
      ".endr\n\t"                                                                               \
      "dec %0\n\t"                                                                              \
      "jnz 1b\n\t"                                                                              \
      "vzeroupper"                                                                              \
      : "+r"(turns)                                                                             \
      :                                                                                         \
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",   \
        "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

namespace cnn_jax {
namespace {

void InFloat32(long turns) { CNN_JAX_REPEAT("vfmadd231ps"); }
void InBfloat16(long turns) { CNN_JAX_REPEAT("vdpbf16ps"); }

// Returns the shortest of some runs, which take microseconds, in seconds.
double Seconds(void (*repeat)(long)) {
  double least = 1;
  for (int run = 0; run < 20; ++run) {
    const auto start = std::chrono::steady_clock::now();
    repeat(2000);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    least = std::min(least, time.count());
  }
  return least;
}

double Measure() {
  const auto isa = dnnl::get_effective_cpu_isa();
  if (isa >= dnnl::cpu_isa::avx512_core_amx) return 16;
  if (isa < dnnl::cpu_isa::avx512_core_bf16) return 0;
  // The instruction computes twice as many products as one of float32, but in four times the time
  // on Intel's Emerald Rapids, which has AMX, and may run without it in a virtual machine. Up to
  // twice the time, bfloat16 is no slower than float32, and moves less memory.
  return Seconds(InBfloat16) < 2.5 * Seconds(InFloat32) ? 2 : 0.5;
}

}  // namespace
}  // namespace cnn_jax

// Returns how many products of bfloat16 oneDNN computes in the time of one of float32: 0 where it
// would emulate them.
extern "C" double CnnJaxBfloat16Rate() {
  static const double rate = cnn_jax::Measure();
  return rate;
}
