"""Loads the components of a recipe, its frozen networks, by hub id, local folder or ``zoo:<name>`` (§7).

Each is loaded by its standard ``from_pretrained``, from safetensors only, in float32 and ready for inference.
A hub id may name a folder inside the repository (``owner/name/folder``) and end in ``@revision``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mmface.networks.checks import (
    CAPTIONER,
    CLIP,
    PARSER,
    REWRITER,
    SKETCHER,
    TEXT_ENCODER,
    VAE,
    Role,
    require_chat_template,
    require_labels,
    require_model_type,
    require_tokenizer_files,
    require_type,
    require_weights,
)
from mmface.networks.places import Place, component_folders, locate, resolve, text_places

CHECKPOINT = ".safetensors"
PICKLED = ".pth"  # public files of standard networks, read with ``weights_only``


def component_identity(name: str) -> str:
    """The component's identity in fingerprints: the hash of a folder's files, or the hub id with its revision."""
    path = Path(resolve(name))
    if name.endswith((CHECKPOINT, PICKLED)) and path.is_file():
        return f"{path.name}:{_sha256(path).hexdigest()[:16]}"
    if not path.is_dir():
        return f"hub:{name}"
    digest = hashlib.sha256()
    for folder in component_folders(path):
        files = sorted(folder.rglob("*"))
        weights = CHECKPOINT if any(file.suffix == CHECKPOINT for file in files) else PICKLED
        for file in files:
            if file.suffix in (weights, ".json", ".txt", ".jinja"):
                digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
                digest.update(_sha256(file).digest())
    return f"{name.rsplit('/', 1)[-1]}:{digest.hexdigest()[:16]}"


def encoder_identity(name: str) -> str:
    """The identity of what decides a VAE's latents: its config and the weights of its encoder.

    VAEs that differ only in the weights of their decoders have the same. A hub id stands for itself, as in
    :func:`component_identity`.
    """
    import torch
    from safetensors import safe_open

    path = Path(resolve(name))
    files = sorted(path.glob(f"*{CHECKPOINT}")) if path.is_dir() else []
    if not files:
        return component_identity(name)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    config = {key: value for key, value in config.items() if not key.startswith("_")}  # versions and paths
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in files:
        with safe_open(file, "pt") as content:
            for key in sorted(content.keys()):
                if not key.startswith(("decoder.", "post_quant_conv.")):
                    digest.update(
                        key.encode() + content.get_tensor(key).reshape(-1).view(torch.uint8).numpy().tobytes()
                    )
    return f"encoder:{digest.hexdigest()[:16]}"


def accelerator() -> str:
    """The device on which stages run their networks: ``cuda`` if this process sees a GPU, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_vae(name: str) -> Any:
    """The VAE, of the class that its config names: AutoencoderKL, AutoencoderDC or AutoencoderTiny.

    Raises:
        InputError: the component does not exist, is of another class, or lacks files or weights; names the recipe
            key. The other loaders of this module raise the same error.
    """
    import diffusers

    with VAE.refusing(name):
        place = locate(name)
        config = diffusers.AutoencoderKL.load_config(place.path, **place.options)
        require_type(VAE, name, config.get("_class_name"))
        return frozen(getattr(diffusers, config["_class_name"]), VAE, name, place)


def load_text_encoder(name: str) -> tuple[Any, Any]:
    """``(tokenizer, text_encoder)``: CLIPTokenizer and CLIPTextModel.

    ``name`` is a folder with both, a diffusers pipeline with folders ``text_encoder`` and ``tokenizer``, or the
    ``text_encoder`` folder of such a pipeline.
    """
    from transformers import CLIPTextModel

    with TEXT_ENCODER.refusing(name):
        encoder, tokenizer = text_places(locate(name))
        require_model_type(TEXT_ENCODER, name, encoder)
        model = frozen(CLIPTextModel, TEXT_ENCODER, name, encoder)
        return _clip_tokenizer(TEXT_ENCODER, name, tokenizer, model.config), model


def load_clip(name: str) -> tuple[Any, Any, Any]:
    """``(model, tokenizer, image_processor)`` of a CLIPModel."""
    from transformers import CLIPImageProcessor, CLIPModel

    with CLIP.refusing(name):
        place = locate(name)
        require_model_type(CLIP, name, place)
        model = frozen(CLIPModel, CLIP, name, place)
        tokenizer = _clip_tokenizer(CLIP, name, place, model.config.text_config)
        return model, tokenizer, CLIPImageProcessor.from_pretrained(place.path, **place.options)


def load_parser(name: str, role: Role = PARSER) -> tuple[Any, Any]:
    """``(model, image_processor)`` of a SegformerForSemanticSegmentation with the 19 labels."""
    from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

    with role.refusing(name):
        place = locate(name)
        require_model_type(role, name, place)
        model = frozen(SegformerForSemanticSegmentation, role, name, place)
        require_labels(role, name, model.config.id2label)
        return model, SegformerImageProcessor.from_pretrained(place.path, **place.options)


def load_sketcher(name: str) -> Any:
    """The U²-Net that draws sketches: a folder, a hub id, or a safetensors file with a public checkpoint's keys."""
    from mmface.networks.u2net import U2Net

    if name.endswith(CHECKPOINT):
        return U2Net.from_checkpoint(Path(name)).eval().requires_grad_(False)
    with SKETCHER.refusing(name):
        place = locate(name)
        require_type(SKETCHER, name, U2Net.load_config(place.path, **place.options).get("_class_name"))
        return frozen(U2Net, SKETCHER, name, place)


def load_captioner(name: str) -> tuple[Any, Any]:
    """``(model, processor)`` of an InternVLForConditionalGeneration (on the hub: repositories named ``…-hf``)."""
    from transformers import InternVLForConditionalGeneration, InternVLProcessor

    with CAPTIONER.refusing(name):
        place = locate(name)
        require_model_type(CAPTIONER, name, place)
        require_tokenizer_files(CAPTIONER, name, place)
        processor = InternVLProcessor.from_pretrained(place.path, **place.options)
        require_chat_template(CAPTIONER, name, processor)
        model = frozen(InternVLForConditionalGeneration, CAPTIONER, name, place, large=True)
    return model.to(accelerator()), processor


def load_rewriter(name: str) -> tuple[Any, Any]:
    """``(model, tokenizer)`` of a Qwen3ForCausalLM; the tokenizer pads on the left."""
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    with REWRITER.refusing(name):
        place = locate(name)
        require_model_type(REWRITER, name, place)
        require_tokenizer_files(REWRITER, name, place)
        tokenizer = AutoTokenizer.from_pretrained(place.path, padding_side="left", **place.options)
        require_chat_template(REWRITER, name, tokenizer)
        model = frozen(Qwen3ForCausalLM, REWRITER, name, place, large=True)
    return model.to(accelerator()), tokenizer


def describe(name: str) -> str:
    """``name`` with the class of its model, for ``mmface doctor`` and model cards."""
    path = Path(resolve(name))
    if not path.is_dir():
        return f"{name} (hub)"
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return f"{name} ({config.get('_class_name') or ', '.join(config.get('architectures', ['?']))})"


def _sha256(file: Path) -> Any:
    with file.open("rb") as content:  # in pieces: a transformer has gigabytes
        return hashlib.file_digest(content, "sha256")


def _clip_tokenizer(role: Role, name: str, place: Place, config: Any) -> Any:
    """The tokenizer at ``place``; refused if it does not match the text encoder's ``config``."""
    from transformers import CLIPTokenizer

    from mmface.networks.text_encoder import misfit

    require_tokenizer_files(role, name, place)
    tokenizer = CLIPTokenizer.from_pretrained(place.path, **place.options)
    if reason := misfit(tokenizer, config):
        raise role.refuse(name, reason)
    return tokenizer


def frozen(cls: Any, role: Role, name: str, place: Place, *, large: bool = False) -> Any:
    """Loads a model for inference: in float32, a ``large`` one (billions of parameters) in bfloat16 if on a GPU."""
    import torch

    dtype = torch.bfloat16 if large and accelerator() == "cuda" else torch.float32
    model, report = cls.from_pretrained(
        place.path,
        use_safetensors=True,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # require_weights refuses them
        **place.options,
    )
    require_weights(role, name, report)
    return model.eval().requires_grad_(False)
