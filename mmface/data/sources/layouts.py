"""The layouts by name; lists the collections of a recipe, whatever their layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmface.config import Collection, Layout
from mmface.data.sources import authors, celebamask, ffhq, image_folder, parquet
from mmface.data.sources.files import Listing, Match, Places
from mmface.data.sources.names import is_lines
from mmface.data.sources.read import Reader
from mmface.errors import InputError, ServiceError, shown
from mmface.store import Store


@dataclass(frozen=True)
class Functions:
    """A layout: where its files are, how to list them, and what an error says it expects."""

    places: Callable[[Collection], Places]
    listing: Callable[[Collection, Places], Listing]
    expects: str


LAYOUTS: dict[Layout, Functions] = {
    "folder": Functions(image_folder.places, image_folder.listing, "a jpg, png or webp file"),
    "ffhq": Functions(ffhq.places, ffhq.listing, "00000/00000.png"),
    "celebamask-hq": Functions(celebamask.places, celebamask.listing, "CelebA-HQ-img/0.jpg"),
    "parquet": Functions(parquet.places, parquet.listing, "a row in a .parquet file"),
    "authors": Functions(authors.places, authors.listing, "images/ with a jpg, png or webp file"),
}


def list_collections(sources: Sequence[Collection], min_matched: float = 0.0) -> list[Listing]:
    """Lists every collection of a recipe: names, sizes and sidecars, without the bytes of images.

    Args:
        min_matched: ``data.min_matched`` of the recipe; 0 requires only one match per sidecar.

    Raises:
        InputError: a folder, list or captions file is missing or wrong, a collection has no photograph or one that is
            also in another collection, or a sidecar matches no or too few photographs; the field is the recipe key.
        ServiceError: access to a bucket or folder was refused.
    """
    listings = []
    for index, collection in enumerate(sources):
        try:
            listings.append(_list(collection, min_matched))
        except InputError as error:
            raise InputError(error.message, field=f"sources.{index}.{error.field}") from None
        except ServiceError as error:
            message = f"{error.message}; grant access to list and read the collection {collection.name}"
            raise ServiceError(message, field=f"sources.{index}") from error
    _refuse_overlap(sources, listings)
    return listings


def summaries(sources: Sequence[Collection], listings: Sequence[Listing]) -> list[dict[str, Any]]:
    """The manifest's entry for every collection: folder, licences, number of files, and how its sidecars match."""
    return [
        {
            "name": collection.name,
            "licence": collection.licence,
            "layout": collection.layout,
            "images": collection.images,
            "pictures": len(listing.files),
            "ignored_files": listing.ignored,
            "ignored_suffixes": listing.ignored_suffixes,
            "sidecars": {match.kind: match.summary() for match in listing.matches},
            "licences": listing.licences,
        }
        for collection, listing in zip(sources, listings, strict=True)
    ]


def describe(sources: Sequence[Collection], listings: Sequence[Listing]) -> Iterator[str]:
    """Log lines: the number of photographs of each collection, and how its sidecars match them."""
    for collection, listing in zip(sources, listings, strict=True):
        yield f"{collection.name}: {len(listing.files)} photographs, ignored {_counts(listing.ignored_suffixes)}"
        for match in listing.matches:
            yield (
                f"{collection.name}: {match.kind}: {match.matched} of {match.pictures} photographs matched, "
                f"{match.entries - match.used} entries without a photograph, ignored {_counts(match.ignored)}"
            )


def reader_of(collection: Collection, max_megapixels: float) -> Reader:
    """A reader for the photographs of ``collection``."""
    return Reader(collection, LAYOUTS[collection.layout].places(collection), max_megapixels)


def _list(collection: Collection, min_matched: float) -> Listing:
    layout = LAYOUTS[collection.layout]
    for name in ("images", "masks", "captions", "split"):
        uri = getattr(collection, name)
        if uri is not None and not (name == "captions" and is_lines(uri)):
            _require_folder(Store(uri), name)
    found = layout.listing(collection, layout.places(collection))
    if not found.files:
        raise InputError(
            f"no photograph below {collection.images}: layout {collection.layout} expects {layout.expects}",
            field="images",
        )
    for match in found.matches:
        _require(match, min_matched)
    return found


def _require(match: Match, min_matched: float) -> None:
    field = "images" if match.kind == "parts" else match.kind
    if not match.matched:
        found = repr(match.unused[0]) if match.unused else _counts(match.ignored)
        raise InputError(
            f"no entry in {match.uri} matches a photograph by name (found {found}); fix the names", field=field
        )
    if match.share < min_matched:
        raise InputError(
            f"{match.matched} of {match.pictures} photographs have an entry in {match.uri} and {match.used} of its "
            f"{match.entries} entries have a photograph, fewer than data.min_matched {min_matched:g} requires; "
            f"photographs without an entry: {', '.join(match.without) or 'none'}; entries without a photograph: "
            f"{', '.join(match.unused) or 'none'}; fix the names or lower data.min_matched",
            field=field,
        )


def _counts(ignored: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {suffix}" for suffix, count in ignored.items()) or "nothing"


def _refuse_overlap(sources: Sequence[Collection], listings: Sequence[Listing]) -> None:
    """Raises InputError for a file in two collections: it would be its own duplicate."""
    holder: dict[str, str] = {}
    for index, (collection, listing) in enumerate(zip(sources, listings, strict=True)):
        root = LAYOUTS[collection.layout].places(collection).images.uri
        for file in listing.files:
            uri = f"{root}/{file.image.key}"
            other = holder.setdefault(uri, collection.name)
            if other != collection.name:
                raise InputError(
                    f"{shown(uri)} is also in the collection {other}; list it in one of them",
                    field=f"sources.{index}.images",
                )


def _require_folder(place: Store, field: str) -> None:
    if place.local_path is not None and not place.local_path.is_dir():
        raise InputError(f"no folder {place.uri}", field=field)
