"""Training: plain torch, runs without Ray (``ray_jobs/train.py`` wraps it)."""
