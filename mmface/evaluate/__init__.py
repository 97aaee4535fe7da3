"""Evaluation: paints held-out rows, measures the images, decides at the gate and writes the report."""
