"""Kernels as lowerings of JAX's own convolution.

`conv` and its kin make equations of `lax.conv_general_dilated`, so JAX's own rules differentiate,
map, shard and export them. Which kernel computes an equation is settled where JAX lowers it to XLA:
`rules` reads the wish that the equation carries as metadata, `equations` tells which map of which
convolution it is, and `tuning` chooses where no wish is. `internals` holds all that is needed of
JAX's internals, `install` opens the same to every JAX program.
"""
