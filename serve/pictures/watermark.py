"""An invisible mark in the brightness of an image, which survives without metadata: MMFace made it, by which version.

Spread transform dither modulation (Chen & Wornell, IEEE Trans. Information Theory 47(4), 2001): each of 64 bits has a
direction among the middle frequencies of the whole image's DCT, and the image's component in that direction is moved to
the nearest value that encodes the bit. Frequencies are counted per image, so scaling keeps the mark; cropping destroys
it. The change is largest where the image is uneven, and so least visible. The mark has no secret: it informs honest
readers, but anyone can remove or forge it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter

BITS = 64
MIN_SIDE = 64  # smaller images are not marked; marks survive JPEG and WebP from 128 px on
_NAME, _VERSION, _CHECK = 2, 3, 3  # bytes
_BAND = (12, 52)  # half waves per image: above most of a face's energy, below what JPEG removes at 128 px
_STEP = 0.65  # grey levels between two values that encode the same bit; gives a PSNR of 42 dB
_FLAT = 1.0  # grey levels of unevenness that flat parts are given
_ROUNDS = 10
_DOUBTFUL = 4  # least certain bits, which are tried with both values
_SALT = b"MMFace watermark 1"
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as in JPEG

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Mark:
    """The content of a mark.

    Attributes:
        name: :func:`name_code` of the model's name.
        version: of the model in the registry, below 2**24; 0 if unknown, as in a preview.
    """

    name: str
    version: int


def name_code(model: str) -> str:
    """The part of a model's name that a mark can hold: the first four hexadecimal digits of its SHA-256."""
    return hashlib.sha256(model.encode()).hexdigest()[: 2 * _NAME]


def embed(image: Pixels, mark: Mark) -> Pixels:
    """``image`` [H, W, 3] with ``mark`` in it; unchanged if a side is shorter than :data:`MIN_SIDE`."""
    if min(image.shape[:2]) < MIN_SIDE:
        return image
    grey = image @ _LUMA
    offset = np.where(np.unpackbits(np.frombuffer(_encode(mark), np.uint8)), _STEP / 4, -_STEP / 4)
    wanted = np.round((_project(grey) - offset) / _STEP) * _STEP + offset
    room, change, marked = _room(grey), np.zeros_like(grey), image
    for _ in range(_ROUNDS):  # because weighting by room, rounding and clipping weaken the mark
        change += room * _spread(wanted - _project(marked @ _LUMA), grey.shape)
        marked = np.clip(np.rint(image + change[:, :, None]), 0, 255).astype(np.uint8)
    return marked


def detect(image: Pixels) -> Mark | None:
    """The mark of ``image`` [H, W, 3], or None. One in a million unmarked images is reported as marked."""
    if min(image.shape[:2]) < MIN_SIDE:
        return None
    values = np.sin(2 * np.pi * _project(image @ _LUMA) / _STEP)
    doubtful = np.argsort(np.abs(values))[:_DOUBTFUL]
    for flips in range(2**_DOUBTFUL):
        bits = values > 0
        bits[doubtful] ^= (flips >> np.arange(_DOUBTFUL) & 1).astype(bool)
        if (mark := _decode(np.packbits(bits).tobytes())) is not None:
            return mark
    return None


def _encode(mark: Mark) -> bytes:
    body = bytes.fromhex(mark.name) + mark.version.to_bytes(_VERSION)
    return body + _check(body)


def _decode(code: bytes) -> Mark | None:
    body, check = code[:-_CHECK], code[-_CHECK:]
    return Mark(body[:_NAME].hex(), int.from_bytes(body[_NAME:])) if check == _check(body) else None


def _check(body: bytes) -> bytes:
    return hashlib.sha256(_SALT + body).digest()[:_CHECK]


@lru_cache(maxsize=1)
def _directions() -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
    """Row, column, bit and sign of each frequency in the mark; every bit has equally many at each distance from 0."""
    rows, columns = np.mgrid[1 : _BAND[1], 1 : _BAND[1]].reshape(2, -1)
    length = rows**2 + columns**2
    order = np.lexsort((rows, length))
    order = order[(length[order] >= _BAND[0] ** 2) & (length[order] < _BAND[1] ** 2)]
    order = order[: len(order) // BITS * BITS]
    # numpy's generators may change between releases, and marks must stay readable, so SHAKE gives the random numbers.
    noise = np.frombuffer(hashlib.shake_256(_SALT).digest(4 * len(order)), "<u4")
    bits = noise.reshape(-1, BITS).argsort(axis=1, kind="stable").ravel()
    return rows[order], columns[order], bits, np.where(noise & 1, 1, -1).astype(np.float32)


def _project(grey: Floats) -> Floats:
    """The component [BITS] of ``grey`` [H, W] in each bit's direction, in grey levels at any image size."""
    rows, columns, bits, signs = _directions()
    waves = dctn(grey, norm="ortho")[rows, columns] * signs
    return (np.bincount(bits, waves, BITS) / np.sqrt(len(bits) / BITS * grey.size)).astype(np.float32)


def _spread(amounts: npt.NDArray[np.floating], shape: tuple[int, ...]) -> Floats:
    """The pattern [H, W] that changes the components by ``amounts``; the inverse of :func:`_project`."""
    rows, columns, bits, signs = _directions()
    waves = np.zeros(shape, np.float32)
    waves[rows, columns] = amounts[bits] * signs * np.sqrt(waves.size * BITS / len(bits))
    pattern: Floats = idctn(waves, norm="ortho")
    return pattern


def _room(grey: Floats) -> Floats:
    """How much each pixel [H, W] can hide, 1 on average: changes are less visible where the image is uneven."""
    scale = min(grey.shape) / 128
    uneven = gaussian_filter(np.abs(grey - gaussian_filter(grey, 1.5 * scale)), 2 * scale) + _FLAT
    bounded: Floats = np.minimum(uneven, 4 * uneven.mean())
    return bounded / bounded.mean()
