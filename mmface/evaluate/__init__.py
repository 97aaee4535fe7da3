"""Evaluation: held-out pictures are painted, measured, gated and reported."""
