"""The exercises of the course in `course/`: one file per chapter, checked by the package itself.

from cnn_jax.course import convolution as check

check.conv_loops(my_function)     # prints "correct", or a hint
"""
