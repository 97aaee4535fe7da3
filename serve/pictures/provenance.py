"""Encodes generated images as files with metadata that states their origin (§9), never the prompt, and reads it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import PngImageFile, PngInfo

from mmface.imaging.decode import BROKEN
from serve.http.requests import PictureFormat

MEDIA_TYPES: dict[PictureFormat, str] = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
QUALITY = 100
# https://cv.iptc.org/newscodes/digitalsourcetype/
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "mmface": "urn:mmface:provenance",
}
SETTINGS = (
    "num_inference_steps",
    "guidance_scale",
    "drawing_guidance_scale",
    "guidance_start",
    "guidance_end",
    "sampler",
)
_USER_COMMENT = 0x9286
_ASCII = b"ASCII\0\0\0"  # Exif 2.32, UserComment: eight bytes name the character code


@dataclass(frozen=True)
class Provenance:
    """The metadata of a generated image."""

    seed: int
    request_id: str
    model: str | None = None
    version: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    drawing_guidance_scale: float | None = None
    guidance_start: float | None = None
    guidance_end: float | None = None

    def known(self) -> dict[str, str | int | float]:
        """The values that are known, by name; a preview lacks those of the model."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def encode(
    image: npt.NDArray[np.uint8], provenance: Provenance, picture: PictureFormat = "png", quality: int | None = None
) -> bytes:
    """``[H, W, 3]`` as a file: PNG with text keys and XMP, WebP and JPEG with EXIF and XMP.

    Args:
        quality: of webp and jpeg, 0 … 100.
    """
    sink, xmp = BytesIO(), _xmp(provenance)
    pixels = Image.fromarray(image)
    if picture == "png":
        pixels.save(sink, "PNG", pnginfo=_text(provenance, xmp))
        return sink.getvalue()
    options = {"quality": QUALITY if quality is None else quality, "exif": _exif(provenance), "xmp": xmp.encode()}
    # The images are small, so chroma subsampling would be visible.
    pixels.save(sink, picture.upper(), **options, **({"subsampling": 0} if picture == "jpeg" else {}))
    return sink.getvalue()


def read(data: bytes) -> Provenance | None:
    """The metadata that :func:`encode` wrote into a file; None if it has none, or was damaged since.

    Anybody can write such metadata: it informs, and proves nothing.
    """
    try:
        with Image.open(BytesIO(data), formats=list(MEDIA_TYPES)) as image:
            known = _from_text(image) if isinstance(image, PngImageFile) else _from_exif(image)
            return Provenance(**known) if isinstance(known.get("seed"), int) else None
    except (*BROKEN, Image.DecompressionBombError):  # a damaged header may claim any size
        return None


def _from_text(image: PngImageFile) -> dict[str, Any]:
    known = {name.removeprefix("mmface:"): text for name, text in image.text.items() if name.startswith("mmface:")}
    if not known:
        return {}
    if "model_version" in known:
        known["version"] = known.pop("model_version")
    settings = json.loads(known.pop("settings"))
    return {**known, **settings, "seed": int(known["seed"])}


def _from_exif(image: Image.Image) -> dict[str, Any]:
    comment = image.getexif().get_ifd(IFD.Exif).get(_USER_COMMENT, b"")
    if not isinstance(comment, bytes) or not comment.startswith(_ASCII):
        return {}
    known: dict[str, Any] = json.loads(comment.removeprefix(_ASCII))
    return known if known.pop("digital_source_type", None) == SOURCE_TYPE else {}


def _text(provenance: Provenance, xmp: str) -> PngInfo:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp)
    info.add_text("Software", "MMFace")
    info.add_text("DigitalSourceType", SOURCE_TYPE)
    known = provenance.known()
    settings = {name: known.pop(name) for name in SETTINGS if name in known}
    if "version" in known:
        known["model_version"] = known.pop("version")
    for name, value in known.items():
        info.add_text(f"mmface:{name}", str(value))
    info.add_text("mmface:settings", json.dumps(settings))
    return info


def _exif(provenance: Provenance) -> Image.Exif:
    exif = Image.Exif()
    exif[Base.Software] = "MMFace"
    exif[Base.ImageDescription] = "Portrait made by a generative model (MMFace)"
    comment = json.dumps({"digital_source_type": SOURCE_TYPE} | provenance.known())
    exif.get_ifd(IFD.Exif)[_USER_COMMENT] = _ASCII + comment.encode("ascii")
    return exif


def _xmp(provenance: Provenance) -> str:
    values = {"xmp:CreatorTool": "MMFace", "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE}
    values |= {f"mmface:{name}": str(value) for name, value in provenance.known().items()}
    names = "".join(f' xmlns:{name}="{uri}"' for name, uri in _NAMESPACES.items())
    attributes = "".join(f"\n {name}={quoteattr(value)}" for name, value in values.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF{names}>\n<rdf:Description rdf:about=""{attributes}/>\n'
        '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    )
