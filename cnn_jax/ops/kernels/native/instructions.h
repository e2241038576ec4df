// The instructions of this machine.

#pragma once

#include "oneapi/dnnl/dnnl.hpp"

namespace cnn_jax {

// Returns whether this machine has the instructions, and the user lets oneDNN use them.
inline bool Has(dnnl::cpu_isa isa) {
  static const int all = static_cast<int>(dnnl::get_effective_cpu_isa());
  return (all & static_cast<int>(isa)) == static_cast<int>(isa);
}

}  // namespace cnn_jax
