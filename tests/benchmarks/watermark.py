"""Measures the invisible watermark: its visibility, which changes of the image it survives, and false detections.

Uses drawn portraits, or the images in the folder ``--photos``. The mark must survive file formats and scaling, and no
unmarked image may have one. The effect of cropping, rotation and brightness is printed without a limit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from mmface.data.portraits import draw
from serve.pictures.watermark import Mark, detect, embed, name_code
from tests.benchmarks._common import finish, verdict

SIDES = (128, 256, 512)


def stored(kind: str, **options: Any) -> Callable[[Image.Image], Image.Image]:
    def again(image: Image.Image) -> Image.Image:
        sink = BytesIO()
        image.save(sink, kind, **options)
        return Image.open(BytesIO(sink.getvalue())).convert("RGB")

    return again


def scaled(factor: float) -> Callable[[Image.Image], Image.Image]:
    def again(image: Image.Image) -> Image.Image:
        return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)

    return again


MUST = {
    "png": stored("PNG"),
    "jpeg 90": stored("JPEG", quality=90),
    "jpeg 75, half the colour": stored("JPEG", quality=75, subsampling=2),
    "webp 90": stored("WEBP", quality=90),
    "webp 75": stored("WEBP", quality=75),
    "scaled to 3/4": scaled(0.75),
    "scaled to 3/2": scaled(1.5),
}
MAY = {
    "jpeg 50": stored("JPEG", quality=50, subsampling=2),
    "scaled to a half": scaled(0.5),
    "scaled to 3/4, jpeg 75": lambda image: stored("JPEG", quality=75)(scaled(0.75)(image)),
    "10 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "cropped by 1 %": lambda image: ImageOps.crop(image, max(1, image.width // 100)),
    "cropped by 10 %": lambda image: ImageOps.crop(image, image.width // 10),
    "mirrored": ImageOps.mirror,
    "turned by 1 degree": lambda image: image.rotate(1, Image.Resampling.BICUBIC),
}


def pictures(photos: Path | None, count: int, side: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    if photos is None:
        return [draw(seed, side).image for seed in range(count)]
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".png", ".webp"))[:count]
    return [np.asarray(ImageOps.fit(Image.open(path).convert("RGB"), (side, side))) for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, metavar="DIR", help="default: drawn portraits")
    parser.add_argument("--n", type=int, default=100, help="images per size; default: 100")
    given = parser.parse_args()
    held = []
    for side in SIDES:
        ratios, kept, false, seconds = [], dict.fromkeys((*MUST, *MAY), 0), 0, 0.0
        images = pictures(given.photos, given.n, side)
        for version, image in enumerate(images, 1):
            mark = Mark(name_code("mmface-dit"), version)
            start = time.perf_counter()
            marked = embed(image, mark)
            seconds += time.perf_counter() - start
            ratios.append(10 * np.log10(255**2 / np.mean((marked.astype(float) - image) ** 2)))
            picture = Image.fromarray(marked)
            for name, change in (MUST | MAY).items():
                kept[name] += detect(np.asarray(change(picture))) == mark
            false += detect(image) is not None
        print(f"{len(images)} pictures of {side} px, {1000 * seconds / len(images):.0f} ms each; found after")
        print("".join(f"    {name}: {kept[name]}\n" for name in kept), end="")
        held.append(verdict(f"PSNR at {side} px, the lowest", min(ratios), 38, at_most=False, unit=" dB"))
        found = min(kept[name] for name in MUST) / len(images)
        held.append(verdict(f"found after files and scaling at {side} px", found, 0.99, at_most=False))
        held.append(verdict(f"unmarked pictures with a mark at {side} px", false, 0))
    finish(held)


if __name__ == "__main__":
    main()
