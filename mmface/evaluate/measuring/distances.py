"""Distances between two sets of images in the features of a network: Fréchet, KID, CMMD, and the nearest row.

Pure functions on float arrays. Shapes: n images with D features each; R resamples of the rows of an evaluation set.
The kernel distances are estimated without bias, so their value does not depend on n; the Fréchet distance is biased
upwards for small n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmface.errors import InputError

Floats = NDArray[np.float64]
Given = NDArray[np.floating[Any]]
Kernel = Callable[[Floats, Floats], Floats]

BLOCK = 1024  # rows of a kernel matrix in memory at the same time
CMMD_SIGMA = 10.0  # arXiv 2401.09603, section 4
CMMD_SCALE = 1000.0


def frechet(a: Given, b: Given) -> float:
    """Fréchet distance between the Gaussians of two feature sets [n, D] and [m, D] (arXiv 1706.08500).

    tr (S_a S_b)^(1/2) is the nuclear norm of A B^T, where A and B are the centred features over sqrt(n - 1). This is
    also exact for n < D, where the covariances are singular and a matrix square root is inaccurate.

    Raises:
        InputError: fewer than two rows, or a value that is not finite.
    """
    a, b = _checked(a), _checked(b)
    centred_a = (a - a.mean(0)) / (len(a) - 1) ** 0.5
    centred_b = (b - b.mean(0)) / (len(b) - 1) ** 0.5
    root_a, root_b = (np.asarray(np.linalg.qr(one, mode="r")) for one in (centred_a, centred_b))
    overlap = np.linalg.svdvals(root_a @ root_b.T).sum()
    spread = np.square(centred_a).sum() + np.square(centred_b).sum()
    return max(0.0, float(np.square(a.mean(0) - b.mean(0)).sum() + spread - 2 * overlap))


def kid(a: Given, b: Given) -> float:
    """Kernel distance (KID) of two feature sets [n, D] and [m, D]; below 0 if the sets are very alike.

    Squared maximum mean discrepancy with the kernel (x·y / D + 1)^3, unbiased (arXiv 1801.01401).

    Raises:
        InputError: fewer than two rows, or a value that is not finite.
    """
    return _squared_mmd(_checked(a), _checked(b), _cubic)


def cmmd(a: Given, b: Given) -> float:
    """Kernel distance of CLIP embeddings (CMMD, arXiv 2401.09603) of two sets [n, D] and [m, D].

    1000 x squared maximum mean discrepancy of the embeddings, scaled to unit length, with a Gaussian kernel of sigma
    10. Unbiased; the authors' program takes the biased estimator, which counts each image's kernel with itself and is
    larger by 1000 (2 - mean kernel within a - mean kernel within b) / n for sets of one size n.

    Raises:
        InputError: fewer than two rows, or a value that is not finite.
    """
    return CMMD_SCALE * _squared_mmd(_unit(_checked(a)), _unit(_checked(b)), _gaussian)


def resampled_kid(generated: Given, photographs: Given, counts: NDArray[np.integer[Any]]) -> Floats:
    """:func:`kid` of each resample of the rows of an evaluation set: [n, D] twice, paired by row, and [R, n] -> [R].

    A row that a resample has several times is not compared with itself: the kernel of a generated image (or a
    photograph) with its own copy is left out, and the kernel of a generated image with its own photograph has the
    weight that it has in :func:`kid`.

    Args:
        counts: how often each resample has each row. Sums may differ, so a resample can be a block of rows.

    Raises:
        InputError: fewer than two rows, fewer than two different rows in a resample, or a value that is not finite.
    """
    return _resampled(_checked(generated), _checked(photographs), _cubic, counts)


def resampled_cmmd(generated: Given, photographs: Given, counts: NDArray[np.integer[Any]]) -> Floats:
    """:func:`cmmd` of each resample of the rows of an evaluation set; see :func:`resampled_kid`."""
    a, b = _unit(_checked(generated)), _unit(_checked(photographs))
    return CMMD_SCALE * _resampled(a, b, _gaussian, counts)


def resampled_frechet(generated: Given, photographs: Given, counts: NDArray[np.integer[Any]]) -> Floats:
    """:func:`frechet` of each resample of the rows of an evaluation set: [n, D] twice and [R, n] -> [R]."""
    rows = [np.repeat(np.arange(len(generated)), one) for one in counts]
    return np.array([frechet(generated[one], photographs[one]) for one in rows])


def nearest(features: Given, blocks: Iterable[Given]) -> Floats:
    """Cosine distance of each row [n, D] to the nearest of the rows in ``blocks`` [m, D] -> [n]; inf without rows.

    The blocks are read one at a time, so that memory does not grow with the number of training photographs.

    Raises:
        InputError: a value that is not finite.
    """
    ours = _unit(_checked(features, least=0))
    closest = np.full(len(ours), np.inf)
    for block in blocks:
        if len(block):
            theirs = _unit(_checked(block, least=0))
            closest = np.minimum(closest, 1 - (ours @ theirs.T).max(axis=1))
    return closest


def _squared_mmd(a: Floats, b: Floats, kernel: Kernel) -> float:
    n, m = len(a), len(b)
    within_a = sum(_off_diagonal(kernel(a[i : i + BLOCK], a), i).sum() for i in range(0, n, BLOCK))
    within_b = sum(_off_diagonal(kernel(b[i : i + BLOCK], b), i).sum() for i in range(0, m, BLOCK))
    between = sum(kernel(a[i : i + BLOCK], b).sum() for i in range(0, n, BLOCK))
    return float(within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * between / (n * m))


def _resampled(a: Floats, b: Floats, kernel: Kernel, counts: NDArray[np.integer[Any]]) -> Floats:
    """With weights c_i: pairs of different rows weigh c_i c_j; a row's image with its photograph weighs c_i."""
    if len(a) != len(b) or counts.ndim != 2 or counts.shape[1] != len(a):
        shapes = f"{len(a)} generated images, {len(b)} photographs, counts {counts.shape}"
        raise InputError(f"resamples need one count for each row ({shapes})", field="counts")
    weights = counts.astype(np.float64)
    n = weights.sum(1)
    pairs = n**2 - np.square(weights).sum(1)
    if (pairs <= 0).any():
        raise InputError("a resample needs at least two different rows", field="counts")
    within, between, own = np.zeros((3, len(weights)))
    for i in range(0, len(a), BLOCK):
        rows = slice(i, i + BLOCK)
        same = _off_diagonal(kernel(a[rows], a), i) + _off_diagonal(kernel(b[rows], b), i)
        across = kernel(a[rows], b)
        own += weights[:, rows] @ across.diagonal(i)
        within += ((weights[:, rows] @ same) * weights).sum(1)
        between += ((weights[:, rows] @ _off_diagonal(across, i)) * weights).sum(1)
    return np.asarray(within / pairs - 2 * ((n - 1) / n * between / pairs + own / n**2))


def _off_diagonal(block: Floats, start: int) -> Floats:
    """Rows ``start`` onwards of a kernel matrix, with 0 on the diagonal of the matrix; changes the argument."""
    rows = np.arange(len(block))
    block[rows, rows + start] = 0
    return block


def _cubic(a: Floats, b: Floats) -> Floats:
    return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)


def _gaussian(a: Floats, b: Floats) -> Floats:
    squared = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    return np.asarray(np.exp(-np.maximum(squared, 0) / (2 * CMMD_SIGMA**2)))


def _unit(features: Floats) -> Floats:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, np.finfo(np.float64).tiny))


def _checked(features: Given, least: int = 2) -> Floats:
    if len(features) < least:
        raise InputError(f"a distance between sets needs at least {least} images, not {len(features)}", field="n")
    if not np.isfinite(features).all():
        raise InputError("the features of an image are not finite numbers", field="features")
    return np.asarray(features, np.float64)
