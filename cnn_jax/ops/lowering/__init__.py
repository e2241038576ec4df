"""Kernels as lowerings of JAX's own convolution.

`conv` and related operations bind `lax.conv_general_dilated`, so JAX's own rules differentiate,
vmap, shard and export them. The kernel of an equation is chosen when JAX lowers the equation to
XLA: `rules` reads the caller's choice of kernels, which the equation carries as metadata,
`equations` finds which map of which convolution the equation is, and `tuning` chooses if the caller
did not. `internals` contains everything that uses JAX's internals. `install` applies the kernels to
every JAX program.
"""
