"""What experiments share: presets, models, trained weights, scores and finished tables."""
