"""Named lists of problems (see `problem.py` for how to read them)."""

# The lecture's network on 28x28 images, batch 64, and an upsampling layer.
LECTURE = (
    'mb64_ic1ih28oc32kh3ph1',
    'mb64_ic32ih14oc64kh3ph1',
    'conv_transpose:mb64_ic64ih7oc32kh2sh2',
    'max_pool:mb64_ic32ih28kh2sh2',
    'avg_pool:mb64_ic64ih14kh2sh2',
)

# Layers of well-known networks for which kernels were tuned on CPUs.
TUNED = (
    'mb64_ic1ih28oc32kh3ph1',
    'mb64_ic32ih28oc64kh3ph1',
    'mb64_ic64ih14oc128kh3ph1',
    'mb64_ic3ih32oc64kh3ph1',
    'mb64_ic64ih32oc64kh3ph1',
    'mb64_ic128ih16oc128kh3ph1',
    'mb64_ic256ih8oc256kh3ph1',
    'mb64_ic512ih4oc512kh3ph1',
    'mb8_ic3ih224oc64kh3ph1',
    'mb4_ic64ih112oc128kh3ph1',
    'mb4_ic256ih56oc256kh3ph1',
    'mb16_ic64ih56oc64kh1',
    'mb16_ic128ih56oc128kh3sh2oh28',
    'mb16_ic1iw8000oc64kw80sw4pw38',
    'mb16_ic64iw2000oc128kw3pw1',
    'mb64_ic300iw56oc100kw5pw2',
    'g128mb16_ic128ih56oc128kh3ph1',
    'mb4_ic3ih224oc64kh7sh2ph2oh112',
)

# Shapes that no kernel was tuned for: unaligned channels, odd sizes, batch 1, groups, dilation,
# long and oblong windows, three dimensions, and transposed convolutions.
HELD_OUT = (
    'mb32_ic48ih20oc96kh3ph1',
    'mb16_ic24ih40oc40kh5ph2',
    'mb128_ic16ih14oc16kh3ph1',
    'mb1_ic64ih56oc64kh3ph1',
    'mb128_ic512ih2oc512kh3ph1',
    'g2mb8_ic96ih27oc256kh5ph2',
    'mb4_ic3ih227oc96kh11sh4',
    'mb16_ic192ih28oc32kh1',
    'mb16_ic256ih28oc512kh1sh2',
    'g144mb16_ic144ih56oc144kh3sh2ph1',
    'g32mb8_ic128ih28oc128kh3ph1',
    'mb32_ic64iw1000oc64kw9pw4',
    'mb16_ic32iw4000oc32kw3pw4dw3',
    'mb8_ic16ih33iw61oc24kh3kw7ph1pw3',
    'mb2_ic16id16ih28iw28oc32kd3pd1',
    'mb8_ic64ih32oc64kh3ph2dh1',
    'conv_transpose:mb16_ic96ih12oc48kh4sh2ph1',
    'conv_transpose:mb8_ic48iw500oc24kw8sw4pw2',
)

# Drawn at random before any was timed: one layer each of 16 networks whose layers oneDNN 3f27bec
# lists in tests/benchdnn/inputs/conv/shapes_*, and two of deconv/shapes_1d and shapes_2d. The batch
# is the largest power of two, up to 64, with at most 1e9 multiply-adds.
DRAWN = (
    'mb2_ic48ih320iw512oc32kh1',
    'mb8_ic512ih14oc48kh5ph2',
    'mb64_ic172ih16oc12kh3ph1',
    'mb16_ic3ih512oc32kh3sh2oh256',
    'mb8_ic64ih75iw94oc256kh1',
    'mb64_ic32id33oc1kd1',
    'mb8_ic160ih14oc320kh3ph1',
    'mb1_ic512ih128oc256kh1sh2',
    'mb16_ic512ih14oc512kh1',
    'g32mb4_ic4096ih7oc4096kh3ph1',
    'mb1_ic64ih60iw80oc64kh7ph3',
    'g512mb64_ic512ih19oc512kh3ph1',
    'mb8_ic4ih96oc320kh3ph1',
    'mb1_ic64ih138oc64kh3',
    'mb8_ic3ih224oc768kh16sh16',
    'mb2_ic728ih19oc1024kh1',
    'conv_transpose:mb64_ic256iw28oc512kw1sw2ow56',
    'conv_transpose:mb64_ic64ih14oc512kh1',
)

TRANSPOSED = (
    'conv_transpose:mb32_ic256ih8oc128kh4sh2ph1',
    'conv_transpose:mb32_ic128ih16oc64kh4sh2ph1',
    'conv_transpose:mb32_ic64ih32oc3kh4sh2ph1',
    'conv_transpose:mb16_ic64iw2000oc32kw16sw8pw4',
)

# Layers of the networks of `experiments/accelerator_report.py`: VGG-16, ResNet-50, MobileNet v2 and
# ConvNeXt for 224x224 pixels, and airbench for 32x32.
ACCELERATOR = (
    'mb32_ic64ih56oc64kh3ph1',
    'mb32_ic256ih14oc256kh3ph1',
    'mb32_ic1024ih14oc256kh1',
    'mb32_ic3ih224oc64kh7sh2ph3',
    'mb32_ic512ih28oc512kh3ph1',
    'mb32_ic128ih56oc128kh3sh2ph1',
    'mb32_ic256ih56oc512kh1sh2',
    'g144mb32_ic144ih56oc144kh3ph1',
    'g96mb32_ic96ih56oc96kh7ph3',
    'mb32_ic3ih224oc96kh4sh4',
    'mb32_ic96ih56oc24kh1',
    'mb256_ic64ih15oc256kh3ph1',
)

POOLS = (
    'max_pool:mb64_ic32ih28kh2sh2',
    'max_pool:mb16_ic64ih112kh3sh2ph1',
    'max_pool:mb16_ic64iw2000kw4sw4',
    'max_pool:mb4_ic16id16kd2sd2',
    'avg_pool:mb64_ic32ih28kh2sh2',
    'avg_pool:mb16_ic512ih7kh7',
)

# One small problem of each kind. The suite takes seconds and gives a first impression.
SMALL = (
    'mb4_ic3ih16oc8kh3ph1',
    'mb4_ic8iw64oc8kw5sw2pw2',
    'mb2_ic4id6oc4kd3pd1',
    'g8mb4_ic8ih12oc8kh3ph1dh1',
    'conv_transpose:mb4_ic8ih6oc4kh4sh2ph1',
    'max_pool:mb4_ic8ih12kh2sh2',
)

# A tiny problem of each kind, to check a kernel: 1-D to 3-D, oblong and even windows, paddings that
# differ between sides, strides, holes, groups, and a transposed convolution.
CHECKS = (
    'mb2_ic3ih6iw7oc4kh1',
    'mb2_ic3ih8oc4kh3ph1',
    'mb2_ic3ih6iw7oc4kh3kw2',
    'mb2_ic2ih5iw6oc3kh4kw3ph1pw0oh5',
    'mb1_ic2ih7oc2kh5ph2',
    'mb2_ic3ih8iw9oc2kh3sh2sw3ph1',
    'mb2_ic2ih9oc2kh3ph2dh1',
    'g2mb2_ic4ih5iw6oc6kh3ph1',
    'g4mb2_ic4ih6oc4kh3ph1',
    'mb2_ic1iw20oc3kw8sw4pw2',
    'mb1_ic2id4ih5iw3oc3kd2kh3kw2',
    'conv_transpose:mb2_ic4ih6oc2kh4sh2ph1',
)

SUITES: dict[str, tuple[str, ...]] = {
    'lecture': LECTURE,
    'tuned': TUNED,
    'held_out': HELD_OUT,
    'cpu': TUNED + HELD_OUT,
    'drawn': DRAWN,
    'transposed': TRANSPOSED,
    'accelerator': ACCELERATOR,
    'pools': POOLS,
    'small': SMALL,
    'checks': CHECKS,
}
