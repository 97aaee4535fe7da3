"""What each component of a recipe has to be, and the checks that refuse another one (§7).

The libraries make up what they do not find: random weights for a checkpoint of another class, an empty vocabulary for a
folder without tokenizer files. So class, files and weights are compared with what the recipe's key stands for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mmface.errors import InputError
from mmface.imaging.labels import LABELS
from mmface.networks.places import TOKENIZER_FILES, Place, has_tokenizer


@dataclass(frozen=True)
class Role:
    """What a component has to be.

    Attributes:
        name: its key below ``components`` of the recipe.
        types: ``model_type`` (transformers) or ``_class_name`` (diffusers) of its config.
        wanted: what to give, for messages.
        exact: whether its checkpoint may hold nothing else, as one of a whole CLIP does for a text encoder.
    """

    name: str
    types: tuple[str, ...]
    wanted: str
    exact: bool = False

    def refuse(self, given: str, reason: str) -> InputError:
        """The error that says why ``given`` is not such a component."""
        message = f"no {self.name} {given!r}: {reason}; give {self.wanted} by hub id or local folder"
        return InputError(message, field=f"components.{self.name}")

    @contextmanager
    def refusing(self, given: str) -> Iterator[None]:
        """Makes what a library raises about a component's files one line that names the recipe's key."""
        from safetensors import SafetensorError

        try:
            yield
        except InputError as error:
            if error.field != "components":
                raise
            raise InputError(error.message, field=f"components.{self.name}") from None
        # AttributeError and KeyError are what the libraries raise where a config lacks an entry.
        except (OSError, ValueError, AttributeError, KeyError, SafetensorError) as error:
            raise self.refuse(given, str(error).strip().partition("\n")[0][:160].rstrip(".")) from error


VAE = Role(
    "vae",
    ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny"),
    "AutoencoderKL, AutoencoderDC or AutoencoderTiny (of a whole pipeline its folder vae)",
)
TEXT_ENCODER = Role("text_encoder", ("clip_text_model", "clip"), "a CLIP text encoder with its tokenizer")
CLIP = Role("clip", ("clip",), "a whole CLIP with its tokenizer and image processor")
PARSER = Role("parser", ("segformer",), "a SegFormer with the 19 labels and its image processor")
SKETCHER = Role("sketcher", ("U2Net",), "a U²-Net", exact=True)
CAPTIONER = Role("captioner", ("internvl",), "facts, or InternVL with its processor,")
REWRITER = Role("rewriter", ("qwen3",), "Qwen3 with its tokenizer")


def require_type(role: Role, name: str, found: str | None) -> None:
    """Compares the type that a config names."""
    if found not in role.types:
        raise role.refuse(name, f"it is {found!r}" if found else "its config.json names no model of that kind")


def require_model_type(role: Role, name: str, place: Place) -> None:
    """Compares the type in a ``config.json`` of transformers."""
    from transformers import PreTrainedConfig

    config = PreTrainedConfig.get_config_dict(place.path, **place.options)[0]
    require_type(role, name, config.get("model_type") or config.get("_class_name"))


def require_tokenizer_files(role: Role, name: str, place: Place) -> None:
    """Looks for a tokenizer, which transformers would make up."""
    if not has_tokenizer(place):
        files = " or ".join(" and ".join(files) for files in TOKENIZER_FILES)
        raise role.refuse(name, f"its tokenizer is missing ({files})")


def require_chat_template(role: Role, name: str, templated: Any) -> None:
    """Looks for what messages are put into, without which every row would fail."""
    if not templated.chat_template:
        raise role.refuse(name, "it has no chat template")


def require_labels(name: str, labels: Mapping[int, str]) -> None:
    """Compares the number of a parser's labels, and their order where they have names."""
    if len(labels) != len(LABELS):
        raise PARSER.refuse(name, f"it has {len(labels)} labels")
    for number, wanted in enumerate(LABELS):
        if labels[number] not in (wanted, f"LABEL_{number}"):
            raise PARSER.refuse(name, f"its label {number} is {labels[number]!r}, not {wanted!r}")


def require_weights(role: Role, name: str, report: Mapping[str, Any]) -> None:
    """Looks into the loading info of ``from_pretrained`` for weights that the checkpoint does not give."""
    for what in ("missing", "mismatched", "unexpected") if role.exact else ("missing", "mismatched"):
        # Of a mismatched weight the shapes are told, too.
        if keys := sorted(key if isinstance(key, str) else key[0] for key in report[f"{what}_keys"]):
            message = f"its weights are not those of its config, {len(keys)} are {what} ({', '.join(keys[:2])})"
            raise role.refuse(name, message)
