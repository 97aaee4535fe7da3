"""The frozen networks of a recipe, by hub id, local folder or ``zoo:<name>`` (§7).

Each loads by its standard ``from_pretrained``, from safetensors only, in float32 and ready for inference.
A hub id may name a folder inside the repository (``owner/name/folder``) and end in ``@revision``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mmface.errors import InputError
from mmface.zoo import resolve

CHECKPOINT = ".safetensors"


def component_identity(name: str) -> str:
    """What a fingerprint says about a component: the hash of a folder's files, or the hub id with its revision."""
    path = Path(resolve(name))
    if name.endswith(CHECKPOINT) and path.is_file():
        return f"{path.name}:{_sha256(path).hexdigest()[:16]}"
    if not path.is_dir():
        return f"hub:{name}"
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.suffix in (".safetensors", ".json", ".txt", ".jinja"):
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
            digest.update(_sha256(file).digest())
    return f"{name.rsplit('/', 1)[-1]}:{digest.hexdigest()[:16]}"


def accelerator() -> str:
    """Where stages run their networks: ``cuda`` if this process sees a GPU, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_vae(name: str) -> Any:
    """The VAE, of the class its config names: AutoencoderKL, AutoencoderDC or AutoencoderTiny."""
    import diffusers
    import torch

    path, options = _locate(name)
    config = diffusers.AutoencoderKL.load_config(path, **options)
    cls = getattr(diffusers, config["_class_name"])
    vae = cls.from_pretrained(path, use_safetensors=True, torch_dtype=torch.float32, **options)
    return vae.eval().requires_grad_(False)


def load_text_encoder(name: str) -> tuple[Any, Any]:
    """``(tokenizer, text_encoder)``: CLIPTokenizer and CLIPTextModel."""
    from transformers import CLIPTextModel, CLIPTokenizer

    path, options = _locate(name)
    # In the repository of a diffusers pipeline the tokenizer lies in a folder beside the encoder's.
    beside = {"subfolder": "tokenizer"} if options.get("subfolder") == "text_encoder" else {}
    tokenizer = CLIPTokenizer.from_pretrained(path, **options | beside)
    return tokenizer, _frozen(CLIPTextModel, path, options)


def load_clip(name: str) -> tuple[Any, Any, Any]:
    """``(model, tokenizer, image_processor)`` of a CLIPModel."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    path, options = _locate(name)
    tokenizer = CLIPTokenizer.from_pretrained(path, **options)
    return _frozen(CLIPModel, path, options), tokenizer, CLIPImageProcessor.from_pretrained(path, **options)


def load_parser(name: str) -> tuple[Any, Any]:
    """``(model, image_processor)`` of a SegformerForSemanticSegmentation with the 19 labels."""
    from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

    path, options = _locate(name)
    return (
        _frozen(SegformerForSemanticSegmentation, path, options),
        SegformerImageProcessor.from_pretrained(path, **options),
    )


def load_sketcher(name: str) -> Any:
    """The U²-Net that draws sketches: a folder or hub id, or one safetensors file with a public checkpoint's keys."""
    import torch

    from mmface.data.u2net import U2Net

    if name.endswith(CHECKPOINT):
        model = U2Net.from_checkpoint(Path(name))
    else:
        path, options = _locate(name)
        model, report = U2Net.from_pretrained(
            path, use_safetensors=True, torch_dtype=torch.float32, output_loading_info=True, **options
        )
        if report["missing_keys"] or report["unexpected_keys"]:
            raise InputError(f"{name}: its weights are not those of the U²-Net in its config", field="components")
    return model.eval().requires_grad_(False)


def load_captioner(name: str) -> tuple[Any, Any]:
    """``(model, processor)`` of an InternVLForConditionalGeneration (the hub's ``…-hf`` repositories).

    Raises:
        InputError: no such model, or one of another class.
    """
    from transformers import InternVLForConditionalGeneration, InternVLProcessor

    path, options = _locate_type(name, "internvl", "components.captioner", "facts, or InternVL")
    model = _frozen_large(InternVLForConditionalGeneration, path, options)
    return model, InternVLProcessor.from_pretrained(path, **options)


def load_rewriter(name: str) -> tuple[Any, Any]:
    """``(model, tokenizer)`` of a Qwen3ForCausalLM; the tokenizer pads on the left.

    Raises:
        InputError: no such model, or one of another class.
    """
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    path, options = _locate_type(name, "qwen3", "components.rewriter", "Qwen3")
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", **options)
    return _frozen_large(Qwen3ForCausalLM, path, options), tokenizer


def describe(name: str) -> str:
    """``name`` with what it resolves to, for ``mmface doctor`` and model cards."""
    path = Path(resolve(name))
    if not path.is_dir():
        return f"{name} (hub)"
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return f"{name} ({config.get('_class_name') or ', '.join(config.get('architectures', ['?']))})"


def _sha256(file: Path) -> Any:
    with file.open("rb") as content:  # in pieces: a transformer has gigabytes
        return hashlib.file_digest(content, "sha256")


def _locate(name: str) -> tuple[str, dict[str, Any]]:
    path = Path(resolve(name))
    if path.is_dir():
        return str(path), {}
    if path.is_absolute() or name.startswith((".", "~")):
        remedy = "train it with mmface zoo train" if name.startswith("zoo:") else "give a hub id or an existing folder"
        raise InputError(f"{name}: no folder {path}; {remedy}", field="components")
    place, _, revision = name.partition("@")
    owner, _, rest = place.partition("/")
    repository, _, folder = rest.partition("/")
    options = {"revision": revision, "subfolder": folder}
    return f"{owner}/{repository}".rstrip("/"), {key: value for key, value in options.items() if value}


def _locate_type(name: str, model_type: str, field: str, wanted: str) -> tuple[str, dict[str, Any]]:
    """Where a model is, once its config was found to be of ``model_type``."""
    from transformers import PreTrainedConfig

    role = field.rpartition(".")[2]
    try:
        path, options = _locate(name)
        found = PreTrainedConfig.get_config_dict(path, **options)[0].get("model_type")
    except (InputError, OSError) as error:
        message = f"no {role} {name!r}: {str(error).splitlines()[0]}; give {wanted} by hub id or local folder"
        raise InputError(message, field=field) from None
    if found != model_type:
        raise InputError(f"no {role} {name!r}: it is {found!r}; give {wanted} by hub id or local folder", field=field)
    return path, options


def _frozen_large(cls: Any, path: str, options: dict[str, str]) -> Any:
    """Billions of parameters: in bfloat16 on a GPU if there is one."""
    import torch

    device = accelerator()
    if device == "cpu":
        return _frozen(cls, path, options)
    model = cls.from_pretrained(path, use_safetensors=True, dtype=torch.bfloat16, **options)
    return model.to(device).eval().requires_grad_(False)


def _frozen(cls: Any, path: str, options: dict[str, str]) -> Any:
    import torch

    return cls.from_pretrained(path, use_safetensors=True, dtype=torch.float32, **options).eval().requires_grad_(False)
