"""Faults of native kernels, of batch norm, and of what `install` lowers beside convolutions."""

from tools.mutations.fault import Fault

DEPTHWISE = 'test_native_depthwise.py'
NORM = '../nn/test_batch_norm.py'
DENSE = 'test_dense.py'
POOLS = 'test_lowering.py -k pool'
BOUNDS = 'test_bounds.py'
TRANSPOSE = 'test_native_transpose.py'

FAULTS = [
    Fault('native depthwise: taps of another phase', 'kernels/native/depthwise.cc',
          'if ((first - offset) % stride) continue;', 'if ((first + offset) % stride) continue;',
          DEPTHWISE),
    Fault('native depthwise: dilation is ignored', 'kernels/native/depthwise.cc',
          'k * p.dilation[axis] - low', 'k - low', DEPTHWISE),
    Fault('native depthwise: the last outputs are left out', 'kernels/native/depthwise.cc',
          'edge(taps.all.to, phase.count);', '', DEPTHWISE),
    Fault('native depthwise: an inner range begins too early', 'kernels/native/depthwise.cc',
          'all.from = std::max(all.from, b.outputs.from)', 'all.from = b.outputs.from', DEPTHWISE),
    Fault('batch norm: the mean is not scaled', 'normalization.py', '(bias - mean * factor)',
          '(bias - mean)', NORM),
    Fault('batch norm: the mean square is the variance', 'normalization.py',
          'square - jnp.square(mean)', 'square', NORM),
    Fault('batch norm: the running average forgets too much', '../nn/batch_norm.py',
          '(1 - self.momentum) * lax', 'self.momentum * lax', NORM),
    Fault('products: the gradient of the weights is not transposed', 'lowering/products.py',
          'lambda dw: dw[0].T', 'lambda dw: dw[0].reshape(dw.shape[:0:-1])', DENSE),
    Fault('products: weights are never transposed', 'lowering/products.py',
          "'forward' if tuple(rhs_sum) == (0,) else 'input_grad'", "'forward'", DENSE),
    Fault('products: exports contain native code', 'lowering/products.py',
          'if internals.is_export(ctx) or', 'if', DENSE),
    Fault('sums: bias gradients are left to XLA', 'lowering/sums.py',
          'return rules.is_large(x) and', 'return False and', 'test_lowering.py -k bias'),
    Fault('pools: features before the window', 'lowering/pools.py',
          'before = sorted(range(len(shape)), key=order.__getitem__)', 'before = order', POOLS),
    Fault('pools: a sum is an average', 'lowering/pools.py', ', divisor_override=1', '', POOLS),
    Fault('bounds: NaN becomes the bound', 'lowering/bounds.py',
          'beyond = x <= bound if primitive is lax.max_p else x >= bound',
          'beyond = ~(x > bound) if primitive is lax.max_p else ~(x < bound)', BOUNDS),
    Fault('bounds: ReLU of a negative zero', 'lowering/bounds.py', 'x <= bound', 'x < bound',
          BOUNDS),
    Fault('bounds: a number that is NaN is ignored', 'lowering/bounds.py', ' | (bound != bound)',
          '', BOUNDS),
    Fault('bounds: residual blocks are left to XLA', '../nn/layers.py', 'with rules.marked():',
          'if True:', BOUNDS),
    Fault('bounds: JAX lowers them', 'lowering/bounds.py', 'or not is_bound', 'or is_bound',
          BOUNDS),
    Fault('transpositions: strides in the order of the operand', 'kernels/native/transpose.cc',
          'to[order[i]] = to[order[i + 1]] * dims[order[i + 1]]',
          'to[i] = to[i + 1] * dims[order[i + 1]]', TRANSPOSE),
    Fault('transpositions: two are composed in the wrong order', 'kernels/native/transpose.py',
          "tuple(order[i] for i in eqn.params['permutation'])",
          "tuple(eqn.params['permutation'][i] for i in order)", TRANSPOSE),
    Fault('transpositions: blocks that are apart are joined', 'kernels/native/transpose.py',
          'kept.index(blocks[-1][-1]) + 1 == kept.index(axis)',
          'kept.index(blocks[-1][-1]) < kept.index(axis)', TRANSPOSE),
    Fault('transpositions: programs of several devices contain them',
          'kernels/native/transpose.py', 'not internals.on_one_device() or', '', TRANSPOSE),
    Fault('transpositions: exports contain them', 'kernels/native/transpose.py',
          ' or internals.for_export()', '', TRANSPOSE),
    Fault('transpositions: convolutions leave them to XLA', 'lowering/equations.py',
          'len(lhs.shape) - 1 in array[2:]', 'len(lhs.shape) in array[2:]', TRANSPOSE),
]  # fmt: skip
