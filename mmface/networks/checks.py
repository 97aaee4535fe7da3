"""The requirements of each component of a recipe, and the checks that refuse a wrong one (§7).

The libraries silently invent what they do not find: random weights for a checkpoint of another class, an empty
vocabulary for a folder without tokenizer files. So these checks compare class, files and weights with what the recipe
key requires.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mmface.errors import InputError, MissingComponentError
from mmface.imaging.labels import LABELS
from mmface.networks.places import TOKENIZER_FILES, Place, has_tokenizer


@dataclass(frozen=True)
class Role:
    """The requirements of a component.

    Attributes:
        name: its recipe key in ``section``.
        types: allowed values of ``model_type`` (transformers) or ``_class_name`` (diffusers) in its config.
        wanted: what the user should give, for error messages.
        exact: whether extra weights in the checkpoint are an error. They are not for a text encoder, which may come
            from the checkpoint of a whole CLIP.
        section: section of the recipe.
    """

    name: str
    types: tuple[str, ...]
    wanted: str
    exact: bool = False
    section: str = "components"

    @property
    def field(self) -> str:
        """The recipe key."""
        return f"{self.section}.{self.name}"

    def refuse(self, given: str, reason: str) -> InputError:
        """The error that says why ``given`` cannot be used as this component."""
        message = f"cannot use {given!r} as {self.name}: {reason}; give {self.wanted} by hub id or local folder"
        return InputError(message, field=self.field)

    @contextmanager
    def refusing(self, given: str) -> Iterator[None]:
        """Turns a library's exception about a component's files into a one-line error that names the recipe key."""
        from safetensors import SafetensorError

        try:
            yield
        except MissingComponentError as error:
            raise InputError(error.message, field=self.field) from None
        # The libraries raise AttributeError or KeyError if a config lacks an entry.
        except (OSError, ValueError, AttributeError, KeyError, SafetensorError) as error:
            raise self.refuse(given, str(error).strip().partition("\n")[0][:160].rstrip(".")) from error


VAE = Role(
    "vae",
    ("AutoencoderKL", "AutoencoderDC", "AutoencoderTiny"),
    "AutoencoderKL, AutoencoderDC or AutoencoderTiny (in a whole pipeline: its folder vae)",
)
TEXT_ENCODER = Role("text_encoder", ("clip_text_model", "clip"), "a CLIP text encoder with its tokenizer")
CLIP = Role("clip", ("clip",), "a whole CLIP with its tokenizer and image processor")
PARSER = Role("parser", ("segformer",), "a SegFormer with the 19 labels and its image processor")
SKETCHER = Role("sketcher", ("U2Net",), "a U²-Net", exact=True)
CAPTIONER = Role("captioner", ("internvl",), "facts, or InternVL with its processor,")
REWRITER = Role("rewriter", ("qwen3",), "Qwen3 with its tokenizer")
JUDGE = Role("parser", PARSER.types, PARSER.wanted, section="evaluate")
INCEPTION = Role(
    "inception", ("Inception3",), "Inception v3 with the weights of the original FID,", exact=True, section="metrics"
)
DINO = Role("dino", ("dinov2",), "a Dinov2Model with its image processor", section="metrics")
LPIPS = Role("lpips", ("lpips",), "torchvision's AlexNet, VGG-16 or SqueezeNet 1.1", section="metrics")


def require_type(role: Role, name: str, found: str | None) -> None:
    """Raises InputError unless ``found``, the type in a config, is allowed."""
    if found not in role.types:
        raise role.refuse(name, f"it is {found!r}" if found else "its config.json names no type of model")


def require_model_type(role: Role, name: str, place: Place) -> None:
    """Raises InputError unless the type in a ``config.json`` of transformers is allowed."""
    from transformers import PreTrainedConfig

    config = PreTrainedConfig.get_config_dict(place.path, **place.options)[0]
    require_type(role, name, config.get("model_type") or config.get("_class_name"))


def require_tokenizer_files(role: Role, name: str, place: Place) -> None:
    """Raises InputError if there are no tokenizer files; transformers would load an empty tokenizer."""
    if not has_tokenizer(place):
        files = " or ".join(" and ".join(files) for files in TOKENIZER_FILES)
        raise role.refuse(name, f"its tokenizer is missing ({files})")


def require_chat_template(role: Role, name: str, templated: Any) -> None:
    """Raises InputError if there is no chat template, without which every row would fail."""
    if not templated.chat_template:
        raise role.refuse(name, "it has no chat template")


def require_labels(role: Role, name: str, labels: Mapping[int, str]) -> None:
    """Raises InputError unless a parser has the 19 labels; compares their order if they have names."""
    if len(labels) != len(LABELS):
        raise role.refuse(name, f"it has {len(labels)} labels")
    for number, wanted in enumerate(LABELS):
        if labels[number] not in (wanted, f"LABEL_{number}"):
            raise role.refuse(name, f"its label {number} is {labels[number]!r}, not {wanted!r}")


def require_weights(role: Role, name: str, report: Mapping[str, Any]) -> None:
    """Raises InputError if weights are missing or have a wrong shape, or, for an exact role, if there are extra ones.

    Args:
        report: the loading info of ``from_pretrained``.
    """
    for what in ("missing", "mismatched", "unexpected") if role.exact else ("missing", "mismatched"):
        # The entry of a mismatched weight is (key, shape, shape).
        if keys := sorted(key if isinstance(key, str) else key[0] for key in report[f"{what}_keys"]):
            message = f"its weights do not match its config: {len(keys)} are {what} ({', '.join(keys[:2])})"
            raise role.refuse(name, message)
