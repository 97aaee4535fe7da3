"""Everything a run is made of besides its data, and its checkpoint: a folder that is there whole or not at all.

transformer/            the EMA weights as a diffusers model: what a phase publishes
weights.safetensors     the weights in training
optimizer.pt            moments; read with ``weights_only``
state.json              run, steps done, open figures of the log
history.jsonl           one line a logged step
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mmface.errors import TrainingError
from mmface.model import MMFaceDiT
from mmface.train.ema import EMA
from mmface.train.meter import Meter

TRANSFORMER = "transformer"
HISTORY = "history.jsonl"
_EMA_FILE = f"{TRANSFORMER}/diffusion_pytorch_model.safetensors"


@dataclass
class TrainState:
    """A run between two optimizer steps.

    Attributes:
        run: what identifies the phase; a checkpoint of another run is refused.
        rows: training rows.
        step: optimizer steps done.
        history: one entry a logged step.
        held_out: held-out loss of these very EMA weights; ``None`` if it was not measured at this step.
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


def save_checkpoint(state: TrainState, folder: Path) -> None:
    """Writes ``folder``; it appears by one rename, complete and on disk."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".checkpoint-") as work:
        new = Path(work) / "new"
        # One file, whatever its size: readers know its name.
        state.ema.module.save_pretrained(new / TRANSFORMER, max_shard_size="1TB")
        save_file(state.model.state_dict(), new / "weights.safetensors")
        torch.save(state.optimizer.state_dict(), new / "optimizer.pt")
        parameters = sum(parameter.numel() for parameter in state.model.parameters())
        note = {
            "run": state.run,
            "step": state.step,
            "meter": state.meter.state_dict(),
            "summary": {"steps": state.step, "rows": state.rows, "parameters": parameters},
        }
        (new / "state.json").write_text(json.dumps(note), encoding="utf-8")
        lines = "".join(f"{json.dumps(entry)}\n" for entry in state.history)
        (new / HISTORY).write_text(lines, encoding="utf-8")
        os.replace(new, folder)


def load_checkpoint(state: TrainState, folder: Path) -> None:
    """Puts ``state`` where the checkpoint left off, bit for bit.

    Raises:
        TrainingError: the checkpoint belongs to another run.
    """
    note: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if note["run"] != state.run:
        raise TrainingError(f"{folder} is a checkpoint of run {note['run']}, not of {state.run}", field="checkpoint")
    state.model.load_state_dict(load_file(folder / "weights.safetensors"))
    state.ema.module.load_state_dict(load_file(folder / _EMA_FILE))
    state.optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
    state.step = note["step"]
    state.meter.load_state_dict(note["meter"])
    state.history = read_history(folder)


def read_summary(folder: Path) -> dict[str, int]:
    """Steps done, training rows and parameters of a checkpoint."""
    summary: dict[str, int] = json.loads((folder / "state.json").read_text(encoding="utf-8"))["summary"]
    return summary


def read_history(folder: Path) -> list[dict[str, float]]:
    """The logged steps of a checkpoint or published phase."""
    return [json.loads(line) for line in (folder / HISTORY).read_text(encoding="utf-8").splitlines()]
