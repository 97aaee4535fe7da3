"""The exception tree of the product. The one line of an error says what is wrong, with its field, and how to fix it.

::

    MMFaceError                   anything that a user can cause or fix
    |-- RecipeError               a recipe or an override is wrong
    |-- InputError                an image, mask, prompt, size, seed, option or folder that was given is wrong
    |   |-- FilteredError         a valid row that the recipe does not want
    |   `-- MissingComponentError a component's name leads to no files
    |-- DatasetError              a dataset is missing, incomplete, or its counts do not add up
    |-- StageError                a stage exceeded its error budget or could not finish
    |-- TrainingError             training stopped: a loss that is not finite, a checkpoint that does not fit
    |-- RegistryError             the model registry lacks a model, version or alias, or its content is damaged
    `-- ServiceError              a service (Ray, MLflow, Prefect, S3, a disk, the HTTP service) failed or refused
        |-- UnreachableError      a service does not answer now; the same request is worth a retry
        |-- CredentialsError      a token, key or permission is missing, wrong or expired
        |-- StoreFullError        the store or the scratch folder has no room left
        `-- UnhealthyModelError   a replica has no model that works: none loads, or its output is not finite

Code decides by the class, never by ``field`` or the message: those are for people. ``code`` is for other programs; the
subclasses of ServiceError drawn here share its code. :mod:`serve.http.errors` adds the errors of the HTTP service.
"""

import errno
import re
from traceback import extract_tb

# How a job reports an error to its flow: the last line of its log starts with this prefix, and the job exits with 2, or
# with TRY_AGAIN where a service did not answer (EX_TEMPFAIL).
SAID = "error: "
TRY_AGAIN = 75

MAX_TEXT = 300  # characters of a foreign exception's message
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # control characters and lone surrogates
_RAW_BYTES = range(0xDC80, 0xDD00)  # how Python represents bytes of a file name that are not UTF-8


class MMFaceError(Exception):
    """Base of every error that a user can cause or fix.

    Args:
        message: one line that says what is wrong and what to do.
        field: the recipe key, request field, option or path that is wrong.
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
    """An image, mask, prompt, size, seed, option or folder that was given is wrong."""

    code = "invalid_input"


class FilteredError(InputError):
    """A valid row that the recipe does not want: it is quarantined with its reason and counted as filtered."""

    code = "filtered"


class MissingComponentError(InputError):
    """A component's name leads to no files. Raised before the recipe key of the component is known."""


class DatasetError(MMFaceError):
    """A dataset is missing, incomplete, or its counts do not add up."""

    code = "invalid_dataset"


class StageError(MMFaceError):
    """A stage exceeded its error budget or could not finish."""

    code = "stage_failed"


class TrainingError(MMFaceError):
    """Training stopped: a loss that is not finite, a checkpoint that does not fit."""

    code = "training_failed"


class RegistryError(MMFaceError):
    """The model registry has no such model, version or alias, or its content is damaged."""

    code = "registry_error"


class ServiceError(MMFaceError):
    """A service (Ray, MLflow, Prefect, S3, a disk, the HTTP service) failed or refused."""

    code = "service_unavailable"


class UnreachableError(ServiceError):
    """A service does not answer now: the same request may succeed later, so it is worth a retry."""


class CredentialsError(ServiceError):
    """A token, key or permission is missing, wrong or expired: a retry with the same credentials fails again."""


class StoreFullError(ServiceError):
    """The store or the scratch folder has no room left."""


class UnhealthyModelError(ServiceError):
    """A replica has no model that works: no version could be loaded, or its output is not finite."""


def disk_error(error: Exception, message: str, *, field: str) -> ServiceError:
    """The error to raise for a write that failed with ``error``: StoreFullError when the disk or the quota is full."""
    full = isinstance(error, OSError) and error.errno in _FULL
    return StoreFullError(message, field=field) if full else ServiceError(message, field=field)


def describe(error: BaseException) -> str:
    """A foreign exception in one line: its type, its message, and the line of code that raised it."""
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
