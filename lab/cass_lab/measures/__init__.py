"""What a trained predictor keeps and detects."""
