"""What a model is and has learned: layers, cost, receptive fields, attribution."""
