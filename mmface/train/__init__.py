"""Training in plain torch, without Ray; ``ray_jobs/train.py`` runs it on a Ray cluster."""
