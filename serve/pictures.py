"""Pictures in and out: a client's drawing to pixels, a generated image to a PNG that says where it comes from (§9)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mmface.data.labels import mask_from_png
from mmface.data.sources import open_image
from mmface.errors import InputError
from serve.errors import ApiError
from serve.schemas import Modality

MAX_SIDE = 2048  # of a drawing on its way to a replica; more than any model paints
# https://cv.iptc.org/newscodes/digitalsourcetype/
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="MMFace"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/>
</rdf:RDF></x:xmpmeta><?xpacket end="r"?>"""


@dataclass(frozen=True)
class Provenance:
    """What a served image says about itself; never the prompt."""

    model: str
    version: str
    seed: int
    request_id: str
    num_inference_steps: int
    guidance_scale: float
    sampler: str


def read_condition(data: bytes, modality: Modality, max_megapixels: float) -> npt.NDArray[np.uint8]:
    """A client's drawing, ``[H, W]`` uint8: the labels of a mask, the grey of a sketch.

    Raises:
        ApiError: 400 if it cannot be decoded or is over ``max_megapixels`` (judged by the header alone).
        InputError: a mask with labels or colours that do not exist.
    """
    try:
        picture = open_image(data, max_megapixels, field="condition")
    except InputError as error:
        raise ApiError(400, error.message, param="condition", code="invalid_image") from None
    if modality == "sketch":
        return _bounded(picture.convert("L"), Image.Resampling.LANCZOS)
    try:
        labels = mask_from_png(data)
    except InputError as error:
        raise InputError(error.message, field="condition") from None
    return _bounded(Image.fromarray(labels), Image.Resampling.NEAREST)


def encode_png(image: npt.NDArray[np.uint8], provenance: Provenance) -> bytes:
    """``[H, W, 3]`` as a PNG with XMP and plain text keys."""
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", _XMP)
    info.add_text("Software", "MMFace")
    info.add_text("DigitalSourceType", SOURCE_TYPE)
    info.add_text("mmface:model", provenance.model)
    info.add_text("mmface:model_version", provenance.version)
    info.add_text("mmface:seed", str(provenance.seed))
    info.add_itxt("mmface:request_id", provenance.request_id)
    settings = {
        "num_inference_steps": provenance.num_inference_steps,
        "guidance_scale": provenance.guidance_scale,
        "sampler": provenance.sampler,
    }
    info.add_text("mmface:settings", json.dumps(settings))
    sink = BytesIO()
    Image.fromarray(image).save(sink, "PNG", pnginfo=info)
    return sink.getvalue()


def _bounded(picture: Image.Image, method: Image.Resampling) -> npt.NDArray[np.uint8]:
    if max(picture.size) > MAX_SIDE:
        scale = MAX_SIDE / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), method)
    return np.asarray(picture)
