"""What the service may keep of prompts: for each group of prompts, how often hashed words occur in it, and no text.

A row is a group of :data:`GROUP` different prompts. It counts words in :data:`BUCKETS` buckets, with a sign that the
hash chooses (Weinberger et al. 2009, arXiv 0902.2206), so that hundreds of words of a dictionary share a bucket and may
cancel each other. Captions are grouped and counted in the same way for comparison.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from mmface.store import Store

BUCKETS = 256
GROUP = 16  # different prompts of one row
OPEN = 4  # groups that are filled at the same time, so that a row is not one client's session
KEPT = 64  # rows of one file
FILES = 200  # of one model in the home; 32 KiB each at most
FOLDER = "prompts"

Counts = NDArray[np.int16]
_WORD = re.compile(r"[^\W\d_]+")  # letters only: no number of a telephone or a card


def count_words(prompt: str) -> Counts:
    """Signed counts of the different words of one prompt, [:data:`BUCKETS`]."""
    counts = np.zeros(BUCKETS, np.int16)
    for word in set(_WORD.findall(prompt.lower())):
        value = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4, person=b"mmface-words").digest(), "big")
        counts[value % BUCKETS] += 1 if value >> 31 else -1
    return counts


class PromptCounter:
    """Counts prompts in groups, in bounded memory; only whole groups are given away."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)  # of this process: the digests below are useless without it
        self._open = [_Group() for _ in range(OPEN)]
        self._whole: list[Counts] = []
        self._seen = 0

    def add(self, prompt: str) -> None:
        """Counts a prompt in a random open group, unless that group has the same prompt already."""
        place = secrets.randbelow(OPEN)
        group = self._open[place]
        digest = hashlib.blake2b(prompt.encode(), digest_size=8, key=self._key).digest()
        if digest in group.prompts:
            return
        group.prompts.add(digest)
        group.counts += count_words(prompt)
        if len(group.prompts) == GROUP:
            self._keep(group.counts)
            self._open[place] = _Group()

    def take(self) -> Counts:
        """The whole groups [n, :data:`BUCKETS`] since the last call, at most :data:`KEPT`, chosen at random."""
        taken = np.stack(self._whole) if self._whole else np.zeros((0, BUCKETS), np.int16)
        self._whole, self._seen = [], 0
        return taken

    def _keep(self, counts: Counts) -> None:
        """Reservoir sampling: every group of the window is as likely to stay."""
        self._seen += 1
        if len(self._whole) < KEPT:
            self._whole.append(counts)
        elif (place := secrets.randbelow(self._seen)) < KEPT:
            self._whole[place] = counts


class _Group:
    def __init__(self) -> None:
        self.counts: Counts = np.zeros(BUCKETS, np.int16)
        self.prompts: set[bytes] = set()


def write_counts(home: Store, model: str, counts: Counts) -> None:
    """Adds a file of groups to the home, and deletes the oldest files beyond :data:`FILES`."""
    place = home.child(f"{FOLDER}/{model}")
    place.write(f"{time.time_ns():020d}-{secrets.token_hex(4)}.safetensors", save({"counts": counts}))
    for entry in _files(place)[:-FILES]:
        place.delete(entry)


def read_counts(home: Store, model: str, rows: int) -> tuple[str, Counts]:
    """Name of the newest file (empty if there is none), and at most ``rows`` newest groups [n, :data:`BUCKETS`]."""
    place = home.child(f"{FOLDER}/{model}")
    names = _files(place)
    found: list[Counts] = []
    for name in reversed(names):
        if sum(map(len, found)) >= rows:
            break
        found.append(load(place.read(name))["counts"])
    counts = np.concatenate(found)[:rows] if found else np.zeros((0, BUCKETS), np.int16)
    return names[-1] if names else "", counts


def group_captions(captions: Iterable[Sequence[str]], rows: int, seed: int) -> Counts:
    """At most ``rows`` groups of captions [n, :data:`BUCKETS`]: one random caption of each photograph, shuffled.

    Args:
        captions: those of each photograph.
    """
    random = np.random.default_rng(seed)
    chosen = [several[int(random.integers(len(several)))] for several in captions if several]
    order = random.permutation(len(chosen))[: rows * GROUP]
    counts = [count_words(chosen[place]) for place in order]
    whole = len(counts) // GROUP
    if not whole:
        return np.zeros((0, BUCKETS), np.int16)
    grouped: Counts = np.stack(counts[: whole * GROUP]).reshape(whole, GROUP, BUCKETS).sum(1).astype(np.int16)
    return grouped


def _files(place: Store) -> list[str]:
    """Names of the files of groups, oldest first."""
    return sorted(entry.key for entry in place.list() if entry.key.endswith(".safetensors"))
