"""Standard networks that measure images, with small or made-up weights of the real classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional.image
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from mmface.errors import InputError
from mmface.networks.components import component_identity
from mmface.networks.standard import InceptionFeatures, load_dino, load_inception, load_lpips
from tests import tiny

# Sums and first features of two images, computed by torch-fidelity 0.4.0 through torchmetrics 1.9.0
# (NoTrainInceptionV3, "inception-v3-compat", 2048) with the weights of `made_up`.
FIDELITY_SUMS = (98605.180, 129436.617)
FIDELITY_FIRST = ((0.0, 3.1351, 97.184, 296.09), (0.0, 0.16519, 92.794, 335.97))


def made_up(shapes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that depend on no generator of random numbers."""
    state = {}
    for i, (key, like) in enumerate(shapes.items()):
        wave = torch.sin(torch.arange(like.numel(), dtype=torch.float64) * 0.7 + i).reshape(like.shape)
        if key.endswith("running_var"):
            wave = torch.ones_like(wave)
        elif "bn." in key:
            wave = 0.1 * wave + key.endswith("bn.weight")
        else:
            wave = wave * (4 / like[0].numel()) ** 0.5
        state[key] = wave.float()
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def inception() -> dict[str, Tensor]:
    with torch.device("meta"):
        model = InceptionFeatures()
    return made_up(model.state_dict())


@pytest.fixture(scope="module")
def squeeze() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return torchvision.models.squeezenet1_1(weights=None).state_dict()


def images(side: int) -> Tensor:
    wave = torch.sin(torch.arange(2 * 3 * side * side, dtype=torch.float64) * 0.013) * 0.5 + 0.5
    return wave.reshape(2, 3, side, side).mul(255).round().float() / 127.5 - 1


def test_inception_gives_the_features_of_torch_fidelity(inception: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(inception, tmp_path / "pt_inception-2015-12-05-6726825d.pth")
    features = load_inception(str(tmp_path))(images(64))
    assert features.shape == (2, 2048)
    assert features.sum(1).tolist() == pytest.approx(FIDELITY_SUMS, rel=1e-4)
    for row, expected in zip(features, FIDELITY_FIRST, strict=True):
        assert row[:4].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_other_inceptions_are_refused(inception: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    classes = {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    save_file({**inception, **classes}, file)
    with pytest.raises(InputError, match=r"metrics.inception: .* it has 1000 classes, .*FID has 1008"):
        load_inception(str(tmp_path))
    auxiliary = {"AuxLogits.fc.weight": torch.zeros(1008, 768)}
    save_file({**inception, **auxiliary}, file)
    with pytest.raises(InputError, match=r"metrics.inception: .* 1 of its weights are extra \(AuxLogits.fc.weight\)"):
        load_inception(str(file))
    del inception["Mixed_7c.branch_pool.conv.weight"]
    save_file(inception, file)
    with pytest.raises(InputError, match=r"1 of its weights are missing \(Mixed_7c.branch_pool.conv.weight\)"):
        load_inception(str(file))


def test_lpips_is_its_definition(squeeze: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(squeeze, tmp_path / "squeezenet1_1-b8a52dc0.pth")
    a, b = images(64)[:1], images(64)[1:]
    backbone = torchvision.models.squeezenet1_1(weights=None).eval()
    backbone.load_state_dict(squeeze)
    folder = Path(torchmetrics.functional.image.__file__).parent
    linear = torch.load(folder / "lpips_models/squeeze.pth", map_location="cpu", weights_only=True)
    expected = torch.zeros(1)
    x, y = ((one - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) for one in (a, b))
    x, y = (one / torch.tensor([0.458, 0.448, 0.450])[:, None, None] for one in (x, y))
    taps = {1: 0, 4: 1, 7: 2, 9: 3, 10: 4, 11: 5, 12: 6}
    for i, layer in enumerate(backbone.features):
        x, y = layer(x), layer(y)
        if i in taps:
            difference = (F.normalize(x, dim=1) - F.normalize(y, dim=1)) ** 2
            expected += (difference * linear[f"lin{taps[i]}.model.1.weight"]).sum(1).mean((1, 2))
    model = load_lpips(str(tmp_path))
    assert model(a, b).flatten().tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert model(a, a).item() == 0


def test_other_backbones_are_refused(squeeze: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(squeeze, file)
    assert load_lpips(str(file))(images(32), images(32).flip(0)).min() > 0  # its classifier is not needed
    save_file({**squeeze, "features.0.weight": torch.zeros(32, 3, 3, 3)}, file)
    with pytest.raises(InputError, match=r"metrics.lpips: .* 1 of its weights are mismatched \(slices.0.0.weight\)"):
        load_lpips(str(file))
    save_file({"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)}, file)
    with pytest.raises(InputError, match=r"metrics.lpips: .*none of these networks; give torchvision's AlexNet, VGG"):
        load_lpips(str(file))


def test_dino_gives_one_feature_an_image(tmp_path: Path) -> None:
    model, processor = load_dino(tiny.dino(tmp_path))
    pixels = processor(images=[torch.zeros(3, 40, 40).byte()], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 28, 28)
    assert model(pixel_values=pixels).pooler_output.shape == (1, 16)
    assert not any(one.requires_grad for one in model.parameters())


def test_a_network_of_another_class_is_not_dino() -> None:
    with pytest.raises(InputError, match=r"metrics.dino: cannot use 'zoo:clip' as dino: it is 'clip'; give a Dinov2"):
        load_dino("zoo:clip")


LOADERS: list[tuple[str, Callable[[str], Any]]] = [
    ("inception", load_inception),
    ("lpips", load_lpips),
    ("dino", load_dino),
]


@pytest.mark.parametrize(("key", "load"), LOADERS)
def test_missing_and_damaged_files_name_the_recipe_key(key: str, load: Callable[[str], Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"metrics.{key}: .*no folder .*give a hub id or an existing folder"):
        load(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=rf"metrics.{key}: cannot use .* as {key}: "):
        load(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(InputError, match=rf"metrics.{key}: cannot use .* as {key}: "):
        load(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"broken", [1, 2]])
def test_files_that_are_no_tensors_are_refused(content: object, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(InputError, match=r"metrics.inception: .* weights.pth (cannot be read|is not a dict)"):
        load_inception(str(file))
    with pytest.raises(InputError, match=r"there is no file .*gone.pth"):
        load_lpips(str(tmp_path / "gone.pth"))


def test_the_identity_of_a_published_file_depends_on_its_content(tmp_path: Path) -> None:
    file = tmp_path / "alexnet-owt-7be5be79.pth"
    identities = []
    for value in (0.0, 1.0):
        torch.save({"features.0.weight": torch.full((2,), value)}, file)
        identities += [component_identity(str(file)), component_identity(str(tmp_path))]
    assert len(set(identities)) == 4
    (tmp_path / "model.safetensors").write_bytes(b"")
    with_both = component_identity(str(tmp_path))
    file.unlink()
    assert (
        component_identity(str(tmp_path)) == with_both
    )  # only safetensors are loaded, and hashed, where there are any
