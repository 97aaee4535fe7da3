"""Images, masks and sketches ↔ tensors."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mmface.errors import InputError
from mmface.imaging.labels import PALETTE, mask_from_image, mask_to_png
from mmface.imaging.pixels import center_square, mask_to_tensor, resize_mask, sketch_to_tensor, to_pil, to_tensor


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))


@pytest.fixture
def mask() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 19, (24, 24), dtype=np.uint8)


def test_pixels_round_trip_without_resizing(photo: Image.Image) -> None:
    square = center_square(photo)
    assert square.size == (24, 24)
    tensor = to_tensor(square, 24)
    assert tensor.shape == (3, 24, 24)
    assert -1 <= tensor.min() <= tensor.max() <= 1
    assert np.array_equal(np.asarray(to_pil(tensor[None])[0]), np.asarray(square))


def test_images_are_cropped_to_the_centre(photo: Image.Image) -> None:
    torch.testing.assert_close(to_tensor(photo, 24), to_tensor(center_square(photo), 24))
    assert to_tensor(photo, (12, 20)).shape == (3, 12, 20)


def test_shrinking_averages() -> None:
    checker = np.indices((64, 64)).sum(0) % 2 * 255
    image = Image.fromarray(checker.astype(np.uint8))
    assert to_tensor(image, 8).abs().max() < 0.05


def test_masks_keep_pure_colours(mask: np.ndarray) -> None:
    tensor = mask_to_tensor(mask, 16)
    colours = ((tensor + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(colours, PALETTE[resize_mask(mask, 16)])
    assert set(np.unique(resize_mask(mask, 16))) <= set(np.unique(mask))
    assert not torch.equal(mask_to_tensor(mask, 16, resize="lanczos"), tensor)


def test_masks_are_read_from_palette_index_and_rgb_images(mask: np.ndarray) -> None:
    palette = Image.open(io.BytesIO(mask_to_png(mask)))
    for image in (palette, Image.fromarray(mask), Image.fromarray(PALETTE[mask])):
        assert np.array_equal(mask_from_image(image), mask)
    for other in (Image.new("RGB", (4, 4), (1, 2, 3)), Image.new("CMYK", (4, 4)), Image.new("F", (4, 4))):
        with pytest.raises(InputError):
            mask_from_image(other)


def test_sketches_become_three_equal_grey_channels(photo: Image.Image) -> None:
    tensor = sketch_to_tensor(photo, 16)
    assert torch.equal(tensor[0], tensor[1])
    assert torch.equal(tensor[0], tensor[2])
    torch.testing.assert_close(sketch_to_tensor(Image.new("L", (8, 8), 255), 16), torch.ones(3, 16, 16))
