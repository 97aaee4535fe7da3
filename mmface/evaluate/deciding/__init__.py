"""Deciding: figures with intervals, paired comparisons, and the gate."""
