"""Fixtures: a recipe and a training set that train in a second."""

from __future__ import annotations

import numpy as np
import pytest

from mmface.config import Recipe
from mmface.config.load import parse_recipe
from mmface.train.rows.sets import TrainingSet
from mmface.train.rows.texts import Texts

ROWS, CAPTIONS, TOKENS, WIDTH, CHANNELS, SIDE = 10, 3, 5, 12, 2, 4


@pytest.fixture
def recipe() -> Recipe:
    return parse_recipe(
        {
            "seed": 7,
            "model": {"hidden_size": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0},
            "phases": [
                {"resolution": 32, "steps": 12, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 3},
                {"resolution": 32, "steps": 4, "batch_size": 4, "learning_rate": 1e-3},
            ],
            "train": {"log_every": 3, "checkpoint_every": 4, "ema_decay": 0.9},
        }
    )


@pytest.fixture
def data(training_set: TrainingSet) -> TrainingSet:
    return training_set


@pytest.fixture(scope="session")
def training_set() -> TrainingSet:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32)

    latent = (ROWS, CHANNELS, SIDE, SIDE)
    return TrainingSet(
        ids=np.array([f"{row:064d}".encode() for row in range(ROWS)]),
        image=normal(*latent),
        image_std=np.full(latent, 0.1, np.float32),
        conditions=(normal(*latent), normal(*latent)),
        texts=Texts(
            place=np.arange(ROWS * CAPTIONS).reshape(ROWS, CAPTIONS),
            start=np.arange(ROWS * CAPTIONS + 1) * TOKENS,
            sequence=normal(ROWS * CAPTIONS * TOKENS, WIDTH),
            pooled=normal(ROWS * CAPTIONS, WIDTH),
            empty_sequence=normal(TOKENS, WIDTH),
            empty_pooled=normal(WIDTH),
        ),
    )
