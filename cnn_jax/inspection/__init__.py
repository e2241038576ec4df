"""Inspection of models: layers, cost, receptive fields, attribution, learned filters."""
