"""Correctness claims whose situation is a program of `faults`."""

import jax.numpy as jnp
import numpy as np

import cnn_jax
from cnn_jax.bench.gallery import faults
from cnn_jax.bench.gallery.entry import Entry

FOUR_DEVICES = {'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}


def _transposed(padding, output_padding=0, window=3):
    def run(torch):
        x, w = torch.arange(1.0, 5.0), 10.0 ** torch.arange(window)
        return torch.nn.functional.conv_transpose1d(
            x[None, None],
            w[None, None],
            stride=2,
            padding=padding,
            output_padding=output_padding,
        )[0, 0]

    return run


def _ours_transposed(padding, output_padding=0, window=3):
    def run():
        x, w = jnp.arange(1.0, 5.0), 10.0 ** jnp.arange(window)
        return cnn_jax.conv_transpose(
            x[None, :, None],
            w[:, None, None],
            strides=2,
            padding=padding,
            output_padding=output_padding,
        )[0, :, 0]

    return run


def _torch_shape(torch):
    y = torch.nn.functional.conv_transpose2d(
        torch.ones(1, 2, 4, 4), torch.ones(2, 3, 4, 4), stride=4
    )
    return torch.tensor(y.movedim(1, -1).shape)


def _our_shape():
    x, w = jnp.ones((1, 4, 4, 2)), jnp.ones((4, 4, 2, 3))
    return np.array(cnn_jax.conv_transpose(x, w, strides=4, padding=0).shape)


def _keras_transposed(torch):
    import os

    os.environ['KERAS_BACKEND'] = 'torch'
    import keras

    x, w = np.arange(1.0, 5.0), np.array([1.0, 10.0, 100.0])
    y = keras.ops.conv_transpose(
        keras.ops.convert_to_tensor(x[None, :, None]),
        keras.ops.convert_to_tensor(w[:, None, None]),
        strides=2,
        padding='same',
    )
    return y.detach()[0, :, 0]


def _padded_conv(window, padding):
    def run(torch):
        x, w = torch.arange(8.0), torch.arange(1.0, window + 1)
        conv = torch.nn.functional.conv1d
        return conv(x[None, None], w[None, None], stride=2, padding=padding)[0, 0]

    return run


def _ours_padded(window, padding):
    def run():
        x, w = jnp.arange(8.0), jnp.arange(1.0, window + 1)
        return cnn_jax.conv(x[None, :, None], w[:, None, None], strides=2, padding=padding)[0, :, 0]

    return run


FAULTS = (
    Entry(
        'openxla/xla#48713',
        'A convolution that crops at the low side and pads at the high side reads foreign memory',
        'correctness',
        program=faults.negative_low_padding,
        notes='In float32, bfloat16 and float16, 8 and 16 channels are wrong; 1, 4, 17, 32 and 64 '
        'channels are right, and int32 is.',
    ),
    Entry(
        'openxla/xla#48714',
        'Max pooling of a dilated input leaves out the holes of an axis with window 1',
        'correctness',
        program=faults.base_dilation_of_a_max_pool,
        has_ours=False,
        notes='The same call on an array of 8x8 elements is right.',
    ),
    Entry(
        'openxla/xla#48715',
        'A crop before a padded window is added to the padding, which is not the same',
        'correctness',
        program=faults.crop_before_a_padded_window,
        has_ours=False,
        notes='Without jax.jit the result is right.',
    ),
    Entry(
        'openxla/xla#48719',
        'Compiling a window of ones with negative padding aborts the process',
        'correctness',
        program=faults.crop_by_a_window_of_ones,
        has_ours=False,
        environment={},
    ),
    Entry(
        'openxla/xla#47945',
        'With a sharded batch, a grouped convolution gathers the whole batch on every device',
        'correctness',
        program=faults.collectives_of_a_sharded_grouped_convolution,
        environment=FOUR_DEVICES,
        notes='The result is the number of all-gathers in the compiled program; without groups '
        'it is 0, and with 8, depthwise, too.',
    ),
    Entry(
        'jax-ml/jax#32267',
        'lax.conv_transpose takes a number as padding for another convolution than a word',
        'correctness',
        program=faults.explicit_padding_of_conv_transpose,
        torch=_transposed(1, window=4),
        ours=_ours_transposed(1, window=4),
        by_design=True,
    ),
    Entry(
        'jax-ml/jax#17618',
        'lax.conv_transpose without padding has a smaller result than in other libraries',
        'correctness',
        program=faults.shape_of_conv_transpose_without_padding,
        torch=_torch_shape,
        ours=_our_shape,
        by_design=True,
    ),
    Entry(
        'jax-ml/jax#11252',
        'With the same kernel, a transposed convolution of Flax and of PyTorch differ',
        'correctness',
        program=faults.kernel_of_conv_transpose,
        torch=_transposed(0),
        ours=_ours_transposed(0),
        by_design=True,
    ),
    Entry(
        'google/flax#1872',
        'There is no transposed convolution as PyTorch means it, with padding',
        'correctness',
        program=faults.same_padding_of_conv_transpose,
        torch=_transposed(1, 1),
        ours=_ours_transposed(1, 1),
        by_design=True,
    ),
    Entry(
        'keras-team/keras#22876',
        'Keras on PyTorch: a transposed convolution with stride 2 is shifted by one element',
        'correctness',
        program=faults.keras_conv_transpose_of_stride_2,
        torch=_keras_transposed,
        subject='PyTorch',
        remark="the column PyTorch is Keras's",
    ),
    Entry(
        'google/flax#2993',
        "A 7x7 window with stride 2 and padding 'SAME' differs from PyTorch's padding of 3",
        'correctness',
        program=faults.same_padding_with_stride_2,
        torch=_padded_conv(7, 3),
        ours=_ours_padded(7, 3),
        by_design=True,
    ),
    Entry(
        'google/flax#963',
        "A 3x3 window with stride 2 and padding 'SAME' differs from PyTorch's padding of 1",
        'correctness',
        program=faults.same_padding_of_a_3x3_window,
        torch=_padded_conv(3, 1),
        ours=_ours_padded(3, 1),
        by_design=True,
    ),
    Entry(
        'google/flax#2401',
        'Average pooling counts the padding as data',
        'correctness',
        program=faults.flax_average_over_padding,
        ours=lambda: cnn_jax.avg_pool(
            jnp.array([[[1.0], [2.0]]]), 2, strides=1, padding='SAME', count_include_pad=False
        )[0, :, 0],
        by_design=True,
    ),
    Entry(
        'jax-ml/jax#3973',
        'A dilated window that is larger than the input gives a negative shape',
        'correctness',
        program=faults.dilated_window_larger_than_the_input,
        has_ours=False,
    ),
    Entry(
        'jax-ml/jax#4216',
        "padding='SAME' is refused with input dilation",
        'correctness',
        program=faults.same_padding_with_input_dilation,
        has_ours=False,
        by_design=True,
    ),
    Entry(
        'jax-ml/jax#7815',
        'A sum pool with jit around it cannot be differentiated',
        'correctness',
        program=faults.gradient_of_a_jitted_sum_pool,
        has_ours=False,
        notes='With the initial value as a constant, inside of jax.jit, the gradient is right.',
    ),
    Entry(
        'jax-ml/jax#36734',
        'The gradient of a bfloat16 convolution with a float32 result crashes',
        'correctness',
        program=faults.gradient_with_a_wider_result,
    ),
    Entry(
        'jax-ml/jax#9102',
        'The result for an example depends on the size of the batch',
        'correctness',
        program=faults.result_that_depends_on_the_batch,
    ),
    Entry(
        'patrick-kidger/equinox#171',
        'A convolution differs from PyTorch',
        'correctness',
        program=faults.difference_from_float64,
    ),
    Entry(
        'tensorflow/tensorflow#57748',
        'XLA fails on a float64 1x1 convolution that is added to its input',
        'correctness',
        program=faults.float64_convolution_and_its_input,
        x64=True,
    ),
    Entry(
        'pytorch/pytorch#7645',
        'PyTorch: max pooling ignores NaN',
        'correctness',
        program=faults.nan_in_a_max_pool,
        torch=lambda torch: torch.nn.functional.max_pool1d(
            torch.tensor([[[np.nan, np.nan, 1.0]]]), 2, 1
        )[0, 0],
        ours=lambda: cnn_jax.max_pool(
            jnp.array([np.nan, np.nan, 1.0])[None, :, None], 2, strides=1
        )[0, :, 0],
        subject='PyTorch',
    ),
    Entry(
        'elixir-nx/nx#976',
        'XLA on a CPU: the maximum of a window of NaN alone is minus infinity',
        'correctness',
        program=faults.window_of_nan_alone,
        ours=lambda: cnn_jax.max_pool(jnp.full((1, 2, 1), np.nan), 2)[0, :, 0],
    ),
    Entry(
        'jax-ml/jax#10128',
        'jnp.convolve of integers returns floats',
        'correctness',
        program=faults.convolve_of_integers,
        has_ours=False,
        by_design=True,
    ),
    Entry(
        'jax-ml/jax#14585',
        'int8 cannot be convolved with a result in int32',
        'correctness',
        program=faults.int8_with_sums_in_int32,
    ),
    Entry(
        'uxlfoundation/oneDNN#3435',
        'oneDNN: int32 sums of int8 products above 2^24 are rounded',
        'correctness',
        program=faults.int8_sums_above_two_to_the_24,
        subject='ours',
        remark='our native kernel is oneDNN',
    ),
    Entry(
        'jax-ml/jax#10833',
        'The Jacobian of a convolution with an empty result fails',
        'correctness',
        program=faults.jacobian_of_an_empty_result,
    ),
    Entry(
        'jax-ml/jax#1920',
        'A convolution without spatial axes fails',
        'correctness',
        program=faults.convolution_without_spatial_axes,
    ),
    Entry(
        'jax-ml/jax#563',
        'The Hessian of a strided convolution fails',
        'correctness',
        program=faults.hessian_of_a_strided_convolution,
    ),
    Entry(
        'jax-ml/jax#380',
        'The gradient through a step of gradient descent fails',
        'correctness',
        program=faults.gradient_through_a_gradient_step,
    ),
    Entry(
        'jax-ml/jax#4819',
        'vmap and jit of the same gradient abort the process',
        'correctness',
        program=faults.vmap_of_a_gradient_through_a_step,
    ),
    Entry(
        'jax-ml/jax#274',
        'Max pooling has no forward mode',
        'correctness',
        program=faults.forward_mode_through_a_max_pool,
    ),
    Entry(
        'jax-ml/jax#628',
        'Max pooling has no second derivatives',
        'correctness',
        program=faults.second_order_through_a_max_pool,
    ),
    Entry(
        'jax-ml/jax#1731',
        'Second derivatives of max pooling cannot be mapped over examples',
        'correctness',
        program=faults.per_example_second_order_through_a_max_pool,
    ),
    Entry(
        'jax-ml/jax#3706',
        'Convolutions do not support complex numbers',
        'correctness',
        program=faults.complex_numbers,
    ),
    Entry(
        'jax-ml/jax#31798',
        'On an explicit mesh, the kernel gradient fails',
        'correctness',
        program=faults.kernel_gradient_on_an_explicit_mesh,
        environment=FOUR_DEVICES,
    ),
    Entry(
        'jax-ml/jax#32157',
        'Per-example gradients of arrays on a mesh fail',
        'correctness',
        program=faults.per_example_gradients_on_a_mesh,
    ),
)
