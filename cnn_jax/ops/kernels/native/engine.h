// The engine of oneDNN's primitives: this processor.

#pragma once

#include "oneapi/dnnl/dnnl.hpp"

namespace cnn_jax {

inline const dnnl::engine& Engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

}  // namespace cnn_jax
