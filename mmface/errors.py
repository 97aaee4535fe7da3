"""One exception tree: a user's mistake is an :class:`MMFaceError` whose single line names the field and the remedy."""

import re
from traceback import extract_tb

# How a job tells its flow about an error: the last line of its log begins so, and it exits with 2, or with this where a
# service did not answer (EX_TEMPFAIL).
SAID = "error: "
TRY_AGAIN = 75

MAX_TEXT = 300  # characters of a foreign exception's message
_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # control characters, halves of a pair
_RAW_BYTES = range(0xDC80, 0xDD00)  # how Python names bytes of a file name that are not UTF-8


class MMFaceError(Exception):
    """Base of every error a user can cause or mend.

    Args:
        message: one line that says what is wrong and what to do.
        field: the recipe key, request field, option or path that is at fault.
    """

    code = "error"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders (Ray); keyword-only arguments need the state passed explicitly.
        return (type(self), (self.message,), {"field": self.field})


class RecipeError(MMFaceError):
    """The recipe (or an override) is wrong."""

    code = "invalid_recipe"


class InputError(MMFaceError):
    """A given image, mask, prompt, size, seed or folder is wrong."""

    code = "invalid_input"


class FilteredError(InputError):
    """A row that is sound but not wanted by the recipe: set aside with its reason, counted as filtered."""

    code = "filtered"


class DatasetError(MMFaceError):
    """A dataset is missing, incomplete, or does not reconcile."""

    code = "invalid_dataset"


class StageError(MMFaceError):
    """A stage went over its error budget or could not finish."""

    code = "stage_failed"


class TrainingError(MMFaceError):
    """Training stopped: a loss that is not finite, a checkpoint that does not fit."""

    code = "training_failed"


class RegistryError(MMFaceError):
    """The model registry has no such model, version or alias, or its content is damaged."""

    code = "registry_error"


class ServiceError(MMFaceError):
    """A service (Ray, MLflow, Prefect, S3) could not be reached."""

    code = "service_unavailable"


class UnreachableError(ServiceError):
    """A service does not answer now: the same request may well succeed later, so it is worth trying again."""


def describe(error: BaseException) -> str:
    """Any other exception in one line: its type, its message, and the line of code that raised it."""
    text = " ".join(str(error).split())
    at = "".join(
        f" ({frame.filename.rpartition('/')[2]}:{frame.lineno})" for frame in extract_tb(error.__traceback__)[-1:]
    )
    return f"{type(error).__name__}: {text[:MAX_TEXT]}{at}"


def shown(name: str) -> str:
    """A name as it is stored and printed: line breaks, control characters and bytes that are not UTF-8 escaped."""
    return _NOT_SHOWN.sub(_escape, name)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if code in _RAW_BYTES else found[0].encode("unicode_escape").decode()
