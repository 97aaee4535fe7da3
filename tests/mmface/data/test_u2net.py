"""U²-Net: the public checkpoints' parameter counts and keys, and what its answer means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmface.data.u2net import FULL, LITE, U2Net


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
    # RSU-7 has 14 convolutions, each level less two fewer; RSU-4F has 8. Seven convolutions end the net.
    convolutions = [name for name in full if name.endswith("conv_s1.weight")]
    assert len(convolutions) == 2 * (14 + 12 + 10 + 8 + 8) + 8
    assert "stage4.rebnconv5.conv_s1.weight" not in full


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
