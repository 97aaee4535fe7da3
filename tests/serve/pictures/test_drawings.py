"""Clients' drawings: soft edges, dark paper, transparency, and other aspect ratios."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmface.errors import InputError
from mmface.imaging.labels import PALETTE, mask_from_png, mask_to_rgb
from serve.http.errors import ApiError
from serve.pictures.drawings import Drawing, fit_drawing, read_drawing
from tests.serve.service import mask_png, png, sketch_png


def read(image: Image.Image | bytes, modality: str | None = "mask") -> Drawing:
    data = image if isinstance(image, bytes) else png(image)
    return read_drawing(data, modality, 1.0)  # type: ignore[arg-type]


def soft_mask(side: int = 64, blur: int = 2, colours: tuple[int, int, int] = (1, 13, 18)) -> Image.Image:
    """A head and hair in palette colours, drawn large and scaled down."""
    large = Image.new("RGB", (side * blur, side * blur))
    draw = ImageDraw.Draw(large)
    skin, hair, cloth = (tuple(PALETTE[label].tolist()) for label in colours)
    draw.ellipse((side * blur // 4, 4, side * blur * 3 // 4, side * blur), fill=hair)
    draw.ellipse((side * blur // 3, 16, side * blur * 2 // 3, side * blur * 3 // 4), fill=skin)
    draw.rectangle((0, side * blur * 7 // 8, side * blur, side * blur), fill=cloth)
    return large.resize((side, side), Image.Resampling.BICUBIC)


def test_exact_masks_are_read_without_warnings() -> None:
    labels = mask_from_png(mask_png())
    index, rgb = Image.fromarray(labels), Image.fromarray(mask_to_rgb(labels))
    for picture in (mask_png(), index, rgb, rgb.convert("RGBA"), rgb.quantize()):
        drawing = read(picture)
        assert drawing.warnings == ()
        np.testing.assert_array_equal(drawing.pixels, labels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_soft_edges_take_a_nearby_label_and_are_counted(mode: str) -> None:
    soft = soft_mask()
    drawing = read(soft.convert(mode) if mode != "P" else soft.quantize(256))
    (warning,) = drawing.warnings
    off = ~(np.asarray(soft)[:, :, None] == PALETTE).all(-1).any(-1)
    count = int(warning.split()[0])
    assert mode == "P" or count == off.sum()
    assert f"{count} pixels ({100 * count / 64**2:.1f} %) were no palette colour and took the nearest label" == warning
    # The colour halfway between skin and hair is nearest to a third label, which must not appear.
    assert set(np.unique(drawing.pixels)) == {0, 1, 13, 18}
    with pytest.raises(InputError, match="not in the palette"):
        mask_from_png(png(soft))  # training masks must be exact


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.effect_noise((64, 64), 90).convert("RGB"), "not among 0..18|no colour of the 19 labels"),
        (Image.new("RGB", (64, 64), (1, 2, 3)), "100.0 % of the pixels have no colour of the 19 labels' palette"),
        (soft_mask(16, 8).resize((64, 64), Image.Resampling.BICUBIC), r"at most 33.3 %"),
        (Image.new("L", (64, 64), 19), "label 19 is not among"),
        (Image.new("1", (64, 64)), "mode 1 is not a mask"),
        (Image.new("RGBA", (64, 64)), "all of the picture is transparent"),
    ],
    ids=["noise", "unknown", "too soft", "label", "bilevel", "clear"],
)
def test_invalid_masks_are_refused_with_the_reason(picture: Image.Image, message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        read(picture)
    assert refusal.value.field == "condition"


def test_a_white_line_on_black_is_not_a_mask_with_soft_edges() -> None:
    chalk = Image.new("RGB", (64, 64))
    ImageDraw.Draw(chalk).line((0, 0, 64, 50), fill=(255, 250, 255))
    with pytest.raises(InputError, match="no colour"):
        read(chalk)


def test_transparent_parts_of_a_mask_are_background() -> None:
    picture = soft_mask(blur=1).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 64, 8))
    drawing = read(picture)
    assert not drawing.pixels[:8].any()
    assert any("(12.5 %) were transparent: background" in warning for warning in drawing.warnings)


def strokes(mode: str, paper: object, ink: object) -> Image.Image:
    picture = Image.new(mode, (64, 64), paper)  # type: ignore[arg-type]
    ImageDraw.Draw(picture).ellipse((16, 8, 48, 56), outline=ink, width=2)  # type: ignore[arg-type]
    return picture


@pytest.mark.parametrize(
    ("picture", "inverted"),
    [
        (strokes("L", 255, 0), False),
        (strokes("L", 0, 255), True),
        (strokes("L", 100, 10), False),  # a badly lit photograph of paper
        (strokes("L", 30, 200), True),
        (strokes("1", 1, 0), False),
        (strokes("1", 0, 1), True),
        (strokes("RGB", (250, 240, 220), (20, 20, 90)), False),
        (strokes("CMYK", (0, 0, 0, 0), (0, 0, 0, 255)), False),
        (strokes("I;16", 65535, 0), False),
        (strokes("LA", (0, 0), (0, 255)), False),
        (strokes("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)), False),
        (strokes("RGBA", (9, 9, 9, 0), (255, 255, 255, 255)), True),
        (strokes("RGBA", (255, 255, 255, 255), (0, 0, 0, 255)), False),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_sketches_become_dark_lines_on_white(picture: Image.Image, inverted: bool) -> None:
    file = BytesIO()
    picture.save(file, "JPEG" if picture.mode == "CMYK" else "PNG", quality=100)
    drawing = read(file.getvalue(), "sketch")
    line, paper = drawing.pixels[32, 16:18].mean(), drawing.pixels[0, 0]
    assert paper > line + 80
    assert paper > 200 or picture.getpixel((0, 0)) == 100
    assert bool(drawing.warnings) == inverted
    assert not inverted or "inverted" in drawing.warnings[0]


def test_a_sketch_of_one_grey_is_white_paper() -> None:
    assert read(Image.new("L", (8, 8), 255), "sketch").warnings == ()
    assert (read(Image.new("L", (8, 8), 0), "sketch").pixels == 255).all()
    assert (read(Image.new("RGBA", (8, 8)), "sketch").pixels == 255).all()


@pytest.mark.parametrize(
    ("picture", "modality"),
    [
        (mask_png(), "mask"),
        (Image.fromarray(mask_from_png(mask_png())), "mask"),
        (Image.fromarray(mask_to_rgb(mask_from_png(mask_png()))), "mask"),
        (soft_mask(), "mask"),
        (sketch_png(), "sketch"),
        (strokes("L", 0, 255), "sketch"),
        (strokes("RGB", (0, 0, 0), (255, 255, 255)), "sketch"),
        (strokes("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)), "sketch"),
        (strokes("1", 0, 1), "sketch"),
        (Image.effect_noise((64, 64), 60).convert("RGB"), "sketch"),
    ],
    ids=["palette", "index", "rgb", "soft", "sketch", "dark", "dark rgb", "clear", "bilevel", "noise"],
)
def test_masks_and_sketches_are_recognised(picture: Image.Image | bytes, modality: str) -> None:
    assert read(picture, None).modality == modality


def test_large_drawings_are_reduced_and_larger_ones_refused() -> None:
    large = Image.fromarray(mask_from_png(mask_png())).resize((4096, 16), Image.Resampling.NEAREST)
    assert read(large).pixels.shape == (8, 2048)
    assert read(large, "sketch").pixels.shape == (8, 2048)
    with pytest.raises(ApiError, match="2 megapixels; at most 1"):
        read(Image.new("L", (1500, 1500)))


@pytest.mark.parametrize("modality", ["mask", "sketch"])
def test_fit_crops_pads_or_stretches(modality: str) -> None:
    drawing = np.zeros((60, 90), np.uint8)
    drawing[:, 15:75] = 7

    def fitted(size: tuple[int, int], fit: str) -> np.ndarray:  # type: ignore[type-arg]
        return fit_drawing(drawing, modality, size, fit)  # type: ignore[arg-type]

    cropped = fitted((64, 64), "crop")
    assert cropped.shape == (60, 60)
    assert (cropped == 7).all()
    padded = fitted((64, 64), "pad")
    assert padded.shape == (90, 90)
    np.testing.assert_array_equal(padded[15:75], drawing)
    assert (padded[:15] == (0 if modality == "mask" else 255)).all()
    stretched = fitted((64, 64), "stretch")
    assert stretched.shape == (64, 64)
    assert set(np.unique(stretched)) == {0, 7} or modality == "sketch"
    for fit in ("crop", "pad", "stretch"):
        assert fitted((96, 64), fit) is drawing  # the same ratio already
        assert fitted((32, 64), fit).shape == {"crop": (60, 30), "pad": (180, 90), "stretch": (64, 32)}[fit]


@pytest.mark.parametrize("shape", [(1, 2048), (2048, 1), (1, 1), (3, 2)])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_fit_of_extreme_shapes_keeps_a_pixel(shape: tuple[int, int], fit: str) -> None:
    for size in ((64, 64), (64, 32), (32, 64)):
        height, width = fit_drawing(np.ones(shape, np.uint8), "mask", size, fit).shape  # type: ignore[arg-type]
        assert min(height, width) >= 1
        assert max(height, width) <= 4096
