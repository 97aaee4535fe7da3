"""U²-Net: parameter counts and keys of the public checkpoints, loading, and the convention of dark lines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmface.errors import InputError
from mmface.networks.components import component_identity, load_sketcher
from mmface.networks.u2net import FULL, LITE, U2Net


@pytest.mark.parametrize(("plan", "parameters"), [(FULL, 44_009_869), (LITE, 1_131_181)])
def test_parameter_counts_of_the_paper(plan: tuple[tuple[int, int, int], ...], parameters: int) -> None:
    with torch.device("meta"):
        model = U2Net(plan=plan)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_keys_and_shapes_of_the_public_checkpoints() -> None:
    with torch.device("meta"):
        full = {name: tuple(value.shape) for name, value in U2Net(plan=FULL).state_dict().items()}
        lite = {name: tuple(value.shape) for name, value in U2Net(plan=LITE).state_dict().items()}
    assert full.keys() == lite.keys()
    known = {
        "stage1.rebnconvin.conv_s1.weight": ((64, 3, 3, 3), (64, 3, 3, 3)),
        "stage1.rebnconv7.bn_s1.running_mean": ((32,), (16,)),
        "stage1.rebnconv1d.conv_s1.weight": ((64, 64, 3, 3), (64, 32, 3, 3)),
        "stage4.rebnconv4.conv_s1.bias": ((128,), (16,)),
        "stage5.rebnconv4.conv_s1.weight": ((256, 256, 3, 3), (16, 16, 3, 3)),
        "stage6.rebnconv3d.bn_s1.num_batches_tracked": ((), ()),
        "stage5d.rebnconvin.conv_s1.weight": ((512, 1024, 3, 3), (64, 128, 3, 3)),
        "stage2d.rebnconv5d.conv_s1.weight": ((32, 64, 3, 3), (16, 32, 3, 3)),
        "side1.weight": ((1, 64, 3, 3), (1, 64, 3, 3)),
        "side6.weight": ((1, 512, 3, 3), (1, 64, 3, 3)),
        "outconv.weight": ((1, 6, 1, 1), (1, 6, 1, 1)),
    }
    assert {name: (full[name], lite[name]) for name in known} == known


def published_keys() -> set[str]:
    """The keys of the public checkpoints, built from the blocks in figure 5 and table 1 of the paper."""
    five = {1: 7, 2: 6, 3: 5, 4: 4}
    heights = {f"stage{i}": five.get(i, 0) for i in range(1, 7)} | {f"stage{i}d": five.get(i, 0) for i in range(1, 6)}
    blocks = []
    for stage, height in heights.items():
        levels = height or 4  # RSU-4F: dilated, no pooling
        names = ["in", *(str(i) for i in range(1, levels + 1)), *(f"{i}d" for i in range(1, levels))]
        blocks += [f"{stage}.rebnconv{name}" for name in names]
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ends = [*(f"side{i}" for i in range(1, 7)), "outconv"]
    return (
        {f"{block}.conv_s1.{name}" for block in blocks for name in ("weight", "bias")}
        | {f"{block}.bn_s1.{name}" for block in blocks for name in statistics}
        | {f"{end}.{name}" for end in ends for name in ("weight", "bias")}
    )


@pytest.mark.parametrize("plan", [FULL, LITE])
def test_the_keys_are_exactly_the_published_ones(plan: tuple[tuple[int, int, int], ...]) -> None:
    with torch.device("meta"):
        assert set(U2Net(plan=plan).state_dict()) == published_keys()


def test_a_public_checkpoint_as_safetensors_loads_strictly(tmp_path: Path) -> None:
    state = U2Net(plan=LITE).state_dict()
    path = tmp_path / "u2netp.safetensors"
    save_file(state, path)
    loaded = load_sketcher(str(path))
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        name: tuple(value.shape) for name, value in loaded.state_dict().items()
    }
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training
    assert component_identity(str(path)).startswith("u2netp.safetensors:")

    for broken in ({"side1.weight": None}, {"more": torch.zeros(1)}, {"stage3.rebnconvin.conv_s1.weight": None}):
        changed = {name: value for name, value in {**state, **broken}.items() if value is not None}
        save_file(changed, path)
        with pytest.raises(InputError, match="not a U²-Net") as caught:
            load_sketcher(str(path))
        assert caught.value.field == "components.sketcher"
    path.write_bytes(b"pickle")
    with pytest.raises(InputError, match="not a U²-Net"):
        load_sketcher(str(path))
    with pytest.raises(InputError, match="no file"):
        load_sketcher(str(tmp_path / "other.safetensors"))


def test_the_full_network_is_recognised_by_its_shapes(tmp_path: Path) -> None:
    save_file(U2Net(plan=FULL).state_dict(), tmp_path / "u2net.safetensors")
    loaded = load_sketcher(str(tmp_path / "u2net.safetensors"))
    assert tuple(map(tuple, loaded.config.plan)) == FULL


def test_a_folder_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    model = U2Net(plan=LITE)
    model.save_pretrained(tmp_path)
    state = model.state_dict()
    del state["outconv.weight"]
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(InputError, match="weights do not match"):
        load_sketcher(str(tmp_path))


@torch.inference_mode()
def test_sizes_range_and_the_dark_line_convention() -> None:
    torch.manual_seed(0)
    model = U2Net(plan=LITE).eval()
    pixels = torch.rand(2, 3, 50, 37)
    sketch = model(pixels)
    assert sketch.shape == (2, 1, 50, 37)
    assert float(sketch.min()) >= 0
    assert float(sketch.max()) <= 1
    maps = model.logits(pixels)
    assert [tuple(one.shape) for one in maps] == [(2, 1, 50, 37)] * 7
    torch.testing.assert_close(sketch, 1 - torch.sigmoid(maps[0]))


@torch.inference_mode()
def test_it_saves_and_loads(tmp_path: Path) -> None:
    model = U2Net(plan=LITE, dark_lines=False).eval()
    model.save_pretrained(tmp_path)
    again = U2Net.from_pretrained(tmp_path).eval()
    pixels = torch.rand(1, 3, 32, 32)
    assert again.config.dark_lines is False
    assert torch.equal(model(pixels), again(pixels))
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()
