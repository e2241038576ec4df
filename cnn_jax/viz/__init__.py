"""Figures of images, filters, samples and training runs: arrays in, PNG files out."""
