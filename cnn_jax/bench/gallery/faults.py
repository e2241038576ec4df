"""Correctness claims as programs of a few lines, each of which is also the program of a report.

Each takes nothing and returns (result, expected result); the expected result is NumPy's. A program
uses only the names that this module imports, and nothing else of this package.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# What a program needs in front of it to run on its own, by the name that it uses.
IMPORTS = {
    'jax': 'import jax',
    'jnp': 'import jax.numpy as jnp',
    'np': 'import numpy as np',
    'lax': 'from jax import lax',
}


def negative_low_padding():
    x = np.arange(15 * 6 * 8, dtype='float32').reshape(1, 15, 6, 8)
    identity = np.eye(8, dtype='float32').reshape(1, 1, 8, 8)
    padding, layout = ((0, 0), (-5, 1)), ('NHWC', 'HWIO', 'NHWC')
    got = lax.conv_general_dilated(x, identity, (1, 1), padding, dimension_numbers=layout)
    return got, np.pad(x[:, :, 5:], ((0, 0), (0, 0), (0, 1), (0, 0)))


def base_dilation_of_a_max_pool():
    x = np.random.default_rng(0).normal(size=(64, 128)).astype('float32')
    got = lax.reduce_window(x, -jnp.inf, lax.max, (2, 1), (2, 1), 'VALID', base_dilation=(1, 2))
    expected = np.full((32, 255), -np.inf)
    expected[:, ::2] = x.reshape(32, 2, 128).max(1)
    return got, expected


def crop_before_a_padded_window():
    x = jnp.array([[669, -763]])

    def crop_then_sum(x):
        x = lax.pad(x, 0, [(0, 0, 1), (-1, 0, 0)])
        return lax.reduce_window(x, 0, lax.add, (1, 2), (1, 1), ((0, 0), (1, 0)))

    return jax.jit(crop_then_sum)(x), np.array([[-763]])


def crop_by_a_window_of_ones():
    x = np.arange(32, dtype='float32').reshape(8, 4)
    crop = lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 1), (1, 1), ((-1, 0), (0, 0)))
    return jax.jit(crop)(x), x[1:]


def explicit_padding_of_conv_transpose():
    x, w = np.arange(1.0, 5.0), np.array([1.0, 10.0, 100.0, 1000.0])
    layout = ('NWC', 'WIO', 'NWC')
    got = lax.conv_transpose(
        x[None, :, None], w[:, None, None], (2,), [(1, 1)], None, layout, transpose_kernel=True
    )
    return got[0, :, 0], sum(np.pad(x[i] * w, (2 * i, 6 - 2 * i)) for i in range(4))[1:-1]


def shape_of_conv_transpose_without_padding():
    x, w = jnp.ones((1, 4, 4, 2)), jnp.ones((4, 4, 3, 2))
    padding, layout = [(0, 0), (0, 0)], ('NHWC', 'HWIO', 'NHWC')
    y = lax.conv_transpose(x, w, (4, 4), padding, None, layout, transpose_kernel=True)
    return np.array(y.shape), np.array([1, 16, 16, 3])


def kernel_of_conv_transpose():
    x, w = np.arange(1.0, 5.0), np.array([1.0, 10.0, 100.0])
    got = lax.conv_transpose(
        x[None, :, None], w[:, None, None], (2,), 'VALID', None, ('NWC', 'WIO', 'NWC')
    )
    return got[0, :, 0], sum(np.pad(x[i] * w, (2 * i, 6 - 2 * i)) for i in range(4))


def same_padding_of_conv_transpose():
    x, w = np.arange(1.0, 5.0), np.array([1.0, 10.0, 100.0])
    got = lax.conv_transpose(
        x[None, :, None], w[:, None, None], (2,), 'SAME', None, ('NWC', 'WIO', 'NWC')
    )
    full = sum(np.pad(x[i] * w, (2 * i, 7 - 2 * i)) for i in range(4))
    return got[0, :, 0], full[1:-1]


def keras_conv_transpose_of_stride_2():
    x, w = np.arange(1.0, 5.0), np.array([1.0, 10.0, 100.0])
    layout = ('NWC', 'WIO', 'NWC')
    got = lax.conv_transpose(
        x[None, :, None], w[:, None, None], (2,), 'SAME', None, layout, transpose_kernel=True
    )
    return got[0, :, 0], sum(np.pad(x[i] * w, (2 * i, 6 - 2 * i)) for i in range(4))[:-1]


def same_padding_with_stride_2():
    x, w = np.arange(8.0), np.arange(1.0, 8.0)
    got = lax.conv_general_dilated(x[None, None], w[None, None], (2,), 'SAME')
    padded = np.pad(x, 3)
    return got[0, 0], np.array([padded[i : i + 7] @ w for i in range(0, 8, 2)])


def same_padding_of_a_3x3_window():
    x, w = np.arange(8.0), np.array([1.0, 2.0, 3.0])
    got = lax.conv_general_dilated(x[None, None], w[None, None], (2,), 'SAME')
    padded = np.pad(x, 1)
    return got[0, 0], np.array([padded[i : i + 3] @ w for i in range(0, 8, 2)])


def dilated_window_larger_than_the_input():
    got = lax.reduce_window(jnp.ones(1), 0.0, lax.add, (3,), (1,), 'SAME', window_dilation=(3,))
    return got, np.ones(1)


def same_padding_with_input_dilation():
    got = lax.conv_general_dilated(
        jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2)), (2,), 'SAME', lhs_dilation=(2,)
    )
    return got, np.ones((1, 1, 2))


def gradient_of_a_jitted_sum_pool():
    pool = jax.jit(lax.reduce_window, static_argnums=(2, 3, 4, 5))
    got = jax.grad(lambda x: pool(x, 0.0, lax.add, (2,), (1,), 'VALID').sum())(jnp.ones(4))
    return got, np.array([1.0, 2.0, 2.0, 1.0])


def gradient_with_a_wider_result():
    x, w = jnp.ones((1, 1, 8), 'bfloat16'), jnp.ones((1, 1, 3), 'bfloat16')
    conv = lambda x: lax.conv(x, w, (1,), 'VALID', preferred_element_type=jnp.float32).sum()
    return jax.grad(conv)(x)[0, 0], np.array([1.0, 2, 3, 3, 3, 3, 2, 1])


def result_that_depends_on_the_batch():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 1, 28, 28)), rng.normal(size=(32, 1, 3, 3))
    conv = lambda x: lax.conv(jnp.float32(x), jnp.float32(w), (1, 1), 'VALID')[0]
    taps = [(i, j) for i in range(3) for j in range(3)]
    expected = sum(x[0, 0, i : i + 26, j : j + 26] * w[:, 0, i, j, None, None] for i, j in taps)
    return np.stack([conv(x), conv(x[:1])]), np.stack([expected] * 2)


def difference_from_float64():
    rng = np.random.default_rng(0)
    x, w = rng.random((3, 32, 32)), rng.random((3, 3, 3, 3))
    got = lax.conv(jnp.float32(x[None]), jnp.float32(w), (1, 1), 'VALID')[0]
    taps = [(i, j) for i in range(3) for j in range(3)]
    return got, sum(
        np.einsum('chw,oc->ohw', x[:, i : i + 30, j : j + 30], w[:, :, i, j]) for i, j in taps
    )


def float64_convolution_and_its_input():
    x, w = np.full((1, 1, 3, 2), 3.14), np.array([[1.0, 2.0], [3.0, 4.0]])
    layout = ('NHWC', 'HWIO', 'NHWC')
    conv = lambda x: lax.conv_general_dilated(x, w[None, None], (1, 1), 'VALID', None, None, layout)
    got = jax.jit(lambda x: conv(jnp.floor(x)) + jnp.floor(x))(x)
    return got, np.floor(x) @ w + np.floor(x)


def nan_in_a_max_pool():
    x = jnp.array([np.nan, np.nan, 1.0])
    got = lax.reduce_window(x, -jnp.inf, lax.max, (2,), (1,), 'VALID')
    return got, np.array([np.nan, np.nan])


def window_of_nan_alone():
    got = lax.reduce_window(jnp.full(2, np.nan), -jnp.inf, lax.max, (2,), (1,), 'VALID')
    return got, np.array([np.nan])


def convolve_of_integers():
    got = jnp.convolve(jnp.arange(100), jnp.ones(5, int), mode='valid')
    return got, np.convolve(np.arange(100), np.ones(5, int), mode='valid')


def int8_with_sums_in_int32():
    x, w = jnp.full((1, 3, 8, 8), 127, 'int8'), jnp.full((4, 3, 3, 3), 127, 'int8')
    got = lax.conv(x, w, (1, 1), 'VALID', preferred_element_type=jnp.int32)
    return got, np.full((1, 4, 6, 6), 127 * 127 * 27)


def int8_sums_above_two_to_the_24():
    x = jnp.full((1, 1, 1, 4096), 50, 'int8')
    w = jnp.full((1, 1, 4096, 16), -128, 'int8').at[0, 0, 0].set(-87)
    layout, wide = ('NHWC', 'HWIO', 'NHWC'), jnp.int32
    got = lax.conv_general_dilated(
        x, w, (1, 1), 'VALID', dimension_numbers=layout, preferred_element_type=wide
    )
    return got, np.full((1, 1, 1, 16), 50 * (-128 * 4095 - 87))


def jacobian_of_an_empty_result():
    conv = lambda x: lax.conv(x, jnp.ones((1, 1, 2)), (1,), 'VALID')
    return jax.jit(jax.jacrev(conv))(jnp.ones((1, 1, 1))), np.zeros((1, 1, 0, 1, 1, 1))


def convolution_without_spatial_axes():
    layout = ('NC', 'IO', 'NC')
    got = lax.conv_general_dilated(
        jnp.ones((10, 5)), jnp.ones((5, 7)), (), 'SAME', dimension_numbers=layout
    )
    return got, np.full((10, 7), 5.0)


def hessian_of_a_strided_convolution():
    x, w = np.arange(8.0), np.array([1.0, -2.0, 0.5])
    conv = lambda w: lax.conv(x[None, None], w[None, None], (2,), 'SAME')
    patches = np.stack([np.pad(x, (0, 1))[i : i + 3] for i in range(0, 8, 2)])
    expected = patches.T @ (6 * (patches @ w)[:, None] * patches)
    return jax.jit(jax.hessian(lambda w: (conv(w) ** 3).sum()))(w), expected


def gradient_through_a_gradient_step():
    x, w = np.arange(8.0) / 8, np.array([1.0, -2.0, 0.5])
    loss = lambda w: (lax.conv(x[None, None], w[None, None], (1,), 'VALID') ** 2).sum() / 2
    got = jax.jit(jax.grad(lambda w: loss(w - 0.1 * jax.grad(loss)(w))))(w)
    patches = np.stack([x[i : i + 3] for i in range(6)])
    step = np.eye(3) - 0.1 * patches.T @ patches
    return got, step @ patches.T @ patches @ step @ w


def vmap_of_a_gradient_through_a_step():
    xs, w = np.arange(16.0).reshape(2, 8) / 16, np.array([1.0, -2.0, 0.5])
    loss = lambda w, x: (lax.conv(x[None, None], w[None, None], (1,), 'VALID') ** 2).sum() / 2
    outer = jax.grad(lambda w, x: loss(w - 0.1 * jax.grad(loss)(w, x), x))
    got = jax.jit(jax.vmap(outer, (None, 0)))(w, xs)
    patches = np.stack([xs[:, i : i + 3] for i in range(6)], 1)
    square = patches.transpose(0, 2, 1) @ patches
    step = np.eye(3) - 0.1 * square
    return got, step @ square @ step @ w


def forward_mode_through_a_max_pool():
    x, t = np.array([3.0, 1.0, 2.0, 5.0]), np.array([10.0, 20.0, 30.0, 40.0])
    pool = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (2,), 'VALID')
    return jax.jvp(pool, (jnp.array(x),), (jnp.array(t),))[1], np.array([10.0, 40.0])


def second_order_through_a_max_pool():
    x, v = jnp.array([3.0, 1.0, 2.0, 5.0]), jnp.array([1.0, 2.0, 3.0, 4.0])
    pool = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (2,), 'VALID')
    product = lambda x: jax.jvp(jax.grad(lambda x: (pool(x) ** 3).sum()), (x,), (v,))[1]
    return jax.jit(product)(x), np.array([6 * 3.0 * 1, 0, 0, 6 * 5.0 * 4])


def per_example_second_order_through_a_max_pool():
    xs, v = jnp.array([[3.0, 1.0], [2.0, 5.0]]), jnp.array([1.0, 4.0])
    pool = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (2,), 'VALID')
    product = lambda x: jax.jvp(jax.grad(lambda x: (pool(x) ** 3).sum()), (x,), (v,))[1]
    return jax.jit(jax.vmap(product))(xs), np.array([[6 * 3.0 * 1, 0], [0, 6 * 5.0 * 4]])


def complex_numbers():
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=n) + 1j * rng.normal(size=n) for n in (20, 5))
    got = lax.conv(jnp.complex64(x[None, None]), jnp.complex64(w[None, None, ::-1]), (1,), 'VALID')
    return got[0, 0], np.convolve(x, w, 'valid')


def kernel_gradient_on_an_explicit_mesh():
    mesh = jax.make_mesh((4,), ('batch',), axis_types=(jax.sharding.AxisType.Explicit,))
    x, w = np.arange(32.0, dtype='float32').reshape(4, 1, 8), np.ones((1, 1, 3), 'float32')
    with jax.set_mesh(mesh):
        shared = jax.device_put(x, jax.P('batch'))
        loss = lambda w: lax.conv(shared, w, (1,), 'VALID').sum()
        got = jax.jit(jax.grad(loss))(jax.device_put(w, jax.P()))
    return got[0, 0], np.array([x[:, :, i : i + 6].sum() for i in range(3)])


def per_example_gradients_on_a_mesh():
    mesh = jax.sharding.Mesh(jax.devices()[:1], 'x')
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    x, w = (jax.device_put(a, whole) for a in (jnp.arange(32.0).reshape(4, 1, 8), jnp.ones(3)))
    loss = lambda w, x: lax.conv(x[None], w[None, None], (1,), 'VALID').sum()
    got = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(w, x)
    return got, np.stack([np.asarray(x)[:, 0, i : i + 6].sum(1) for i in range(3)], 1)


def collectives_of_a_sharded_grouped_convolution():
    mesh = jax.sharding.Mesh(jax.devices(), 'data')
    shard, whole = (jax.sharding.NamedSharding(mesh, jax.P(*a)) for a in (('data',), ()))
    x, w = jnp.ones((8, 16, 16, 8)), jnp.ones((3, 3, 2, 8))
    layout = ('NHWC', 'HWIO', 'NHWC')
    conv = lambda x, w: lax.conv_general_dilated(x, w, (1, 1), 'SAME', None, None, layout, 4)
    compiled = jax.jit(conv, in_shardings=(shard, whole), out_shardings=shard).lower(x, w).compile()
    return np.array(compiled.as_text().count(' all-gather(')), np.array(0)


def flax_average_over_padding():
    from flax import linen

    got = linen.avg_pool(jnp.array([[[1.0], [2.0]]]), (2,), (1,), 'SAME')
    return got[0, :, 0], np.array([1.5, 2.0])
