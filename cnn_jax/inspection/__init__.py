"""Inspects models: layers, cost, receptive fields, attribution, learned filters."""
