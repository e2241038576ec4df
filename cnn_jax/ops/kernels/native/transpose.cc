// Permutes the axes of an array with oneDNN's reorder, behind an XLA FFI handler.

#include <cstdint>

#include "oneapi/dnnl/dnnl.hpp"
#include "engine.h"
#include "problem.h"
#include "threads.h"

namespace cnn_jax {
namespace {

using dnnl::memory;

// Axis i of `out` is axis order[i] of `a`. The bits of the numbers, which are float32, stay the same.
ffi::Error Transpose(ffi::AnyBuffer a, ffi::Result<ffi::AnyBuffer> out,
                     ffi::Span<const int64_t> order) {
  const auto shape = a.dimensions();
  const memory::dims dims(shape.begin(), shape.end());
  memory::dims from(dims.size(), 1), to(dims.size(), 1);  // strides
  for (size_t i = dims.size() - 1; i-- > 0;) {
    from[i] = from[i + 1] * dims[i + 1];
    to[order[i]] = to[order[i + 1]] * dims[order[i + 1]];
  }
  const auto type = memory::data_type::f32;
  return TakeTurn(64 * a.element_count() < kLeastToShare, [&](Slot&) {
    dnnl::stream stream(Engine());
    memory source({dims, type, from}, Engine(), a.untyped_data());
    memory result({dims, type, to}, Engine(), out->untyped_data());
    dnnl::reorder(source, result).execute(stream, source, result);  // oneDNN keeps its code
    stream.wait();
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CnnJaxTranspose, Transpose,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<ffi::Span<const int64_t>>("order"));

}  // namespace cnn_jax
