"""Previews equal the pipeline's images and depend on the weights only; figures and previews reach MLflow once."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmface.bundles import tracking
from mmface.config import Recipe
from mmface.config.guidance import DRAWING_SCALES, PROMPT_SCALES
from mmface.errors import RecipeError
from mmface.model import MMFaceDiT
from mmface.networks.components import load_text_encoder, load_vae
from mmface.networks.text_encoder import encode_text
from mmface.networks.vae import encode_moments, normalise
from mmface.pipeline import MMFacePipeline
from mmface.sampling import make_scheduler
from mmface.train.checkpoints.state import TrainState
from mmface.train.hooks import Hooks
from mmface.train.loop import train_phase
from mmface.train.rows.sets import TrainingSet
from mmface.train.rows.texts import Texts
from mmface.train.watch.held_out import FixedRows
from mmface.train.watch.previews import Previews
from ray_jobs.shared.instruments import Tracker, describe
from tests import tiny
from tests.mmface.train.test_loop import save_checkpoint

PROMPTS = ["red hair", "a hat", "blond"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """Random images [3, R, 3, P, Q] as photographs, masks and sketches."""
    return torch.rand(3, len(PROMPTS), 3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def pictures(tiny_recipe: Recipe, pixels: torch.Tensor) -> TrainingSet:
    """The training set that the stages would make from ``pixels``."""
    vae = load_vae(tiny_recipe.components.vae)
    tokenizer, encoder = load_text_encoder(tiny_recipe.components.text_encoder)
    image, mask, sketch = (normalise(vae, encode_moments(vae, some)[0]).numpy() for some in pixels)
    sequence, pooled = (some.numpy() for some in encode_text(tokenizer, encoder, ["", *PROMPTS])[:2])
    count, tokens = len(PROMPTS), sequence.shape[1]
    return TrainingSet(
        ids=np.array([f"{row:064d}".encode() for row in range(count)]),
        image=image,
        image_std=None,
        conditions=(mask, sketch),
        texts=Texts(
            place=np.arange(count)[:, None],
            start=np.arange(count + 1) * tokens,
            sequence=sequence[1:].reshape(-1, sequence.shape[-1]),
            pooled=pooled[1:],
            empty_sequence=sequence[0],
            empty_pooled=pooled[0],
        ),
    )


def test_previews_equal_the_images_of_the_pipeline(tiny_recipe, tiny_transformer, pictures, pixels):
    transformer = MMFaceDiT.from_pretrained(tiny_transformer).eval()
    tokenizer, encoder = load_text_encoder(tiny_recipe.components.text_encoder)
    pipeline = MMFacePipeline(
        transformer=transformer,
        vae=load_vae(tiny_recipe.components.vae),
        text_encoder=encoder,
        tokenizer=tokenizer,
        scheduler=make_scheduler("flow", tiny_recipe.sampling.sampler),
        sample_size=tiny.SIDE,
    )
    rows = FixedRows(pictures, 0)
    shape = rows.noise.shape[1:]
    rows.noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(3)])
    painted = Previews(tiny_recipe, rows, CPU).paint(transformer)
    for kind, modality in enumerate(("mask", "sketch")):
        expected = pipeline(
            prompt=PROMPTS,
            condition=pixels[1 + kind],
            modality=modality,
            seeds=[0, 1, 2],
            num_inference_steps=tiny_recipe.sampling.num_inference_steps,
            guidance_scale=tiny_recipe.sampling.guidance_scale,
            output_type="latent",
        ).images
        torch.testing.assert_close(painted[kind], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(painted[0], painted[1], atol=1e-2)


def test_only_the_weights_change_a_sheet(tiny_recipe, tiny_transformer, pictures, pixels):
    transformer = MMFaceDiT.from_pretrained(tiny_transformer).eval()
    previews = Previews(tiny_recipe, FixedRows(pictures, 0), CPU)
    sheet = previews.sheet(previews.paint(transformer))
    assert Image.open(io.BytesIO(sheet)).size == (5 * tiny.SIDE, len(PROMPTS) * tiny.SIDE)
    torch.manual_seed(1)
    again = Previews(tiny_recipe, FixedRows(pictures, 0), CPU)
    assert again.sheet(again.paint(transformer)) == sheet
    with torch.no_grad():
        transformer.final_layer.linear.bias.add_(0.3)
    after = np.asarray(Image.open(io.BytesIO(previews.sheet(previews.paint(transformer)))))
    before = np.asarray(Image.open(io.BytesIO(sheet)))
    same = (before == after).reshape(before.shape[0], 5, tiny.SIDE, 3).all(axis=(0, 2, 3))
    assert same.tolist() == [True, True, False, True, False]


class Killed(Exception):
    pass


def test_a_resumed_run_paints_the_same_sheets(tiny_recipe, pictures, tmp_path: Path):
    recipe = tiny_recipe.model_copy(
        update={
            "phases": (tiny_recipe.phases[0].model_copy(update={"steps": 5, "batch_size": 2, "learning_rate": 1e-2}),),
            "train": tiny_recipe.train.model_copy(update={"checkpoint_every": 3, "ema_decay": 0.5}),
            "watch": tiny_recipe.watch.model_copy(update={"preview_every": 2, "preview_rows": 2}),
        }
    )

    def run(stop: bool, resume: Path | None = None) -> dict[int, bytes]:
        def keep(state: TrainState) -> None:
            if stop:
                save_checkpoint(state, tmp_path / f"{state.step}")
                raise Killed

        sheets: dict[int, bytes] = {}
        hooks = Hooks(lambda line: None, keep, sheets.__setitem__, lambda png: sheets.__setitem__(-1, png))
        train_phase(recipe, 0, pictures, hooks=hooks, held_out=pictures, resume=resume)
        return sheets

    whole = run(stop=False)
    assert list(whole) == [2, 4, 5, -1]
    assert len(set(whole.values())) == 4
    guided = Image.open(io.BytesIO(whole[-1]))
    assert guided.size == (len(PROMPT_SCALES) * tiny.SIDE, len(DRAWING_SCALES) * tiny.SIDE)
    assert Image.open(io.BytesIO(whole[5])).height == 2 * tiny.SIDE
    with pytest.raises(Killed):
        run(stop=True)
    assert run(stop=False, resume=tmp_path / "3") == {step: whole[step] for step in (4, 5, -1)}
    with pytest.raises(RecipeError, match=r"^watch.preview_every: previews need held-out rows"):
        train_phase(recipe, 0, pictures, hooks=Hooks(lambda line: None, lambda state: None))


def test_restarts_log_every_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv(tracking.TRACKING_VARIABLE, uri)
    run = tracking.start_run("test")
    entries = [{"step": step, "loss": 1.0 / step} for step in (3, 6, 8, 9, 12)]
    entries[2]["held_out/loss"] = 0.5
    sheet = io.BytesIO()
    Image.new("RGB", (4, 4)).save(sheet, "PNG")

    first = Tracker(run, uri, offset=20)
    for entry in entries[:3]:
        first.log(entry)
    first.picture("step-000028.png", sheet.getvalue())
    again = Tracker(run, uri, offset=20)  # resumed from the checkpoint of step 6, whose history has steps 3 and 6
    for entry in entries:
        again.log(entry)
    again.picture("step-000028.png", sheet.getvalue())
    again.picture("step-000032.png", sheet.getvalue())

    client = tracking.open_tracking()
    losses = client.get_metric_history(run, "train/loss")
    assert Counter(metric.step for metric in losses) == {23: 1, 26: 1, 28: 1, 29: 1, 32: 1}
    assert [(metric.step, metric.value) for metric in client.get_metric_history(run, "held_out/loss")] == [(28, 0.5)]
    pictures = [entry.path for entry in client.list_artifacts(run, "previews")]
    assert pictures == ["previews/step-000028.png", "previews/step-000032.png"]


def test_the_log_line_of_a_step():
    entry = {"step": 30.0, "loss": 0.51234, "lr": 1e-4, "images_per_s": 12.34, "eta_s": 125.0}
    assert describe("train 0 (64 px)", entry, 100) == (
        "train 0 (64 px): step 30/100  loss 0.5123  lr 1.0e-04  12.3 images/s  ETA 2:05"
    )
    assert "loss 0.5123  held-out 0.6000  lr" in describe("t", entry | {"held_out/loss": 0.6}, 100)
