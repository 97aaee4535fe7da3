"""The state of a training run, and the files of its checkpoint (:mod:`mmface.train.checkpoints.run` stores them).

transformer/            the EMA weights as a diffusers model; a finished phase publishes it
weights.safetensors     the weights in training
optimizer.safetensors   moments; optimizer.json holds their structure and the learning rate
state.json              run, steps done, figures not logged yet
history.jsonl           one line per logged step
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmface.errors import TrainingError
from mmface.model import MMFaceDiT
from mmface.train.checkpoints.trees import detached, flatten, unflatten
from mmface.train.ema import EMA
from mmface.train.placement import full_state, load_full_state
from mmface.train.watch.meter import Meter

TRANSFORMER = "transformer"
HISTORY = "history.jsonl"
_EMA, _WEIGHTS = f"{TRANSFORMER}/diffusion_pytorch_model.safetensors", "weights.safetensors"
_MOMENTS, _OPTIMIZER, _NOTE = "optimizer.safetensors", "optimizer.json", "state.json"
UNPUBLISHED = (_WEIGHTS, _MOMENTS, _OPTIMIZER)  # needed to resume only


@dataclass
class TrainState:
    """The state of a run between two optimizer steps.

    Attributes:
        run: identity of the run; loading a checkpoint of another run raises an error.
        rows: number of training rows.
        step: optimizer steps done.
        history: one entry per logged step.
        held_out: held-out loss of the current EMA weights; ``None`` if it was not measured at this step.
    """

    run: str
    rows: int
    model: MMFaceDiT
    ema: EMA
    optimizer: torch.optim.Optimizer
    step: int = 0
    meter: Meter = field(default_factory=Meter)
    history: list[dict[str, float]] = field(default_factory=list)
    held_out: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """A copy of the state of a run, so that training can continue while the checkpoint is written.

    Attributes:
        run, step, held_out: see :class:`TrainState`.
        tensors: content of the safetensors files, by path.
        texts: content of the other files, by path.
    """

    run: str
    step: int
    held_out: float | None
    tensors: dict[str, dict[str, Tensor]]
    texts: dict[str, str]

    def save_tensors(self, path: str, target: Path) -> None:
        """Writes one safetensors file, with the ``format`` that diffusers requires."""
        save_file(self.tensors[path], target, metadata={"format": "pt"})


def take_snapshot(state: TrainState) -> Snapshot:
    """Copies the state. A collective: every rank calls it; only rank 0's copy has the tensors."""
    full = detached(full_state(state.model, state.ema.module, state.optimizer))
    built, moments = flatten(full["optimizer"])
    parameters = sum(parameter.numel() for parameter in state.model.parameters())
    note = {
        "run": state.run,
        "step": state.step,
        "held_out": state.held_out,
        "meter": state.meter.state_dict(),
        "summary": {"steps": state.step, "rows": state.rows, "parameters": parameters},
    }
    return Snapshot(
        run=state.run,
        step=state.step,
        held_out=state.held_out,
        tensors={_EMA: full["ema"], _WEIGHTS: full["model"], _MOMENTS: moments},
        texts={
            f"{TRANSFORMER}/config.json": _config(state.ema.module),
            _OPTIMIZER: json.dumps(built),
            _NOTE: json.dumps(note),
            HISTORY: "".join(f"{json.dumps(entry)}\n" for entry in state.history),
        },
    )


def load_checkpoint(state: TrainState, folder: Path) -> None:
    """Restores ``state`` from a checkpoint, bit for bit. A collective: every rank calls it.

    Raises:
        TrainingError: the checkpoint belongs to another run.
    """
    note = _read_note(folder)
    if note["run"] != state.run:
        raise TrainingError(f"{folder} is a checkpoint of run {note['run']}, not of {state.run}", field="checkpoint")
    built = json.loads((folder / _OPTIMIZER).read_text(encoding="utf-8"))
    full = {
        "model": load_file(folder / _WEIGHTS),
        "ema": load_file(folder / _EMA),
        "optimizer": unflatten(built, load_file(folder / _MOMENTS)),
    }
    load_full_state(state.model, state.ema.module, state.optimizer, full)
    state.step, state.held_out = note["step"], note["held_out"]
    state.meter.load_state_dict(note["meter"])
    state.history = read_history(folder)


def read_summary(folder: Path) -> dict[str, int]:
    """Number of steps done, training rows and parameters of a checkpoint."""
    summary: dict[str, int] = _read_note(folder)["summary"]
    return summary


def read_history(folder: Path) -> list[dict[str, float]]:
    """The logged steps of a checkpoint or published phase."""
    return [json.loads(line) for line in (folder / HISTORY).read_text(encoding="utf-8").splitlines()]


def _config(model: MMFaceDiT) -> str:
    """The model's ``config.json`` for diffusers; the same on every machine."""
    config = json.loads(model.to_json_string())
    config.pop("_name_or_path", None)  # path of a scratch folder
    config["_class_name"] = MMFaceDiT.__name__  # sharding renames the class
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def _read_note(folder: Path) -> dict[str, Any]:
    note: dict[str, Any] = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
    return note
