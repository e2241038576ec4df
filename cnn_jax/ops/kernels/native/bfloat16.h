// A number of bfloat16, which is converted to float32 to compute with it.

#pragma once

#include <cstdint>

namespace cnn_jax {

struct Bfloat16 {
  uint16_t bits;
};

}  // namespace cnn_jax
