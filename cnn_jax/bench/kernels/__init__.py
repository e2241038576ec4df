"""Every kernel on a convolution problem: right or wrong, and how fast."""
