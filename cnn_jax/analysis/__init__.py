"""Summaries, measurements and pictures: what a convolution costs and what a network learned."""
