"""The layouts by name, and the one way to list a collection of any of them."""

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
    """What a layout is: where its files are, and how they become a listing."""

    places: Callable[[Collection], Places]
    listing: Callable[[Collection, Places], Listing]
    holds: str


LAYOUTS: dict[Layout, Functions] = {
    "folder": Functions(image_folder.places, image_folder.listing, "a jpg, png or webp file"),
    "ffhq": Functions(ffhq.places, ffhq.listing, "00000/00000.png"),
    "celebamask-hq": Functions(celebamask.places, celebamask.listing, "CelebA-HQ-img/0.jpg"),
    "parquet": Functions(parquet.places, parquet.listing, "a row in a .parquet file"),
    "authors": Functions(authors.places, authors.listing, "images/ with a jpg, png or webp file"),
}


def list_collections(sources: Sequence[Collection], min_matched: float = 0.0) -> list[Listing]:
    """Lists every collection of a recipe: names, sizes and sidecars, none of the pictures' bytes.

    Args:
        min_matched: ``data.min_matched`` of the recipe; 0 where only the content is asked for.

    Raises:
        InputError: a folder, list or captions file that is not there or is wrong, no picture, or one that two
            collections hold, sidecars of which none or too few belong to a picture; names the recipe key.
        ServiceError: a bucket or folder that may not be listed.
    """
    listings = []
    for index, collection in enumerate(sources):
        try:
            listings.append(_list(collection, min_matched))
        except InputError as error:
            raise InputError(error.message, field=f"sources.{index}.{error.field}") from None
        except ServiceError as error:
            message = f"{error.message}; the collection {collection.name} must be allowed to be listed and read"
            raise ServiceError(message, field=f"sources.{index}") from error
    _refuse_overlap(sources, listings)
    return listings


def summaries(sources: Sequence[Collection], listings: Sequence[Listing]) -> list[dict[str, Any]]:
    """What a manifest says about every collection: where it was, its licences, how much was in it, what fitted."""
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
    """Lines for the log: what is in each collection, and how its sidecars fit."""
    for collection, listing in zip(sources, listings, strict=True):
        yield f"{collection.name}: {len(listing.files)} pictures, ignored {_counts(listing.ignored_suffixes)}"
        for match in listing.matches:
            yield (
                f"{collection.name}: {match.kind}: {match.matched} of {match.pictures} pictures matched, "
                f"{match.entries - match.used} entries without a picture, ignored {_counts(match.ignored)}"
            )


def reader_of(collection: Collection, max_megapixels: float) -> Reader:
    """What reads the rows of ``collection``."""
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
            f"no picture below {collection.images}: layout {collection.layout} wants {layout.holds}", field="images"
        )
    for match in found.matches:
        _require(match, min_matched)
    return found


def _require(match: Match, min_matched: float) -> None:
    field = "images" if match.kind == "parts" else match.kind
    if not match.matched:
        holds = f"it names {match.unused[0]!r}" if match.unused else f"it holds {_counts(match.ignored)}"
        raise InputError(f"nothing in {match.uri} has the name of a picture ({holds})", field=field)
    if match.share < min_matched:
        raise InputError(
            f"{match.matched} of {match.pictures} pictures have an entry in {match.uri} and {match.used} of its "
            f"{match.entries} entries have a picture, fewer than data.min_matched {min_matched:g} asks for; "
            f"pictures without: {', '.join(match.without) or 'none'}; entries without: "
            f"{', '.join(match.unused) or 'none'}; mend the names, or lower data.min_matched",
            field=field,
        )


def _counts(ignored: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {suffix}" for suffix, count in ignored.items()) or "nothing"


def _refuse_overlap(sources: Sequence[Collection], listings: Sequence[Listing]) -> None:
    """A picture that is listed twice would be its own duplicate."""
    holder: dict[str, str] = {}
    for index, (collection, listing) in enumerate(zip(sources, listings, strict=True)):
        root = LAYOUTS[collection.layout].places(collection).images.uri
        for file in listing.files:
            uri = f"{root}/{file.image.key}"
            other = holder.setdefault(uri, collection.name)
            if other != collection.name:
                raise InputError(
                    f"{shown(uri)} is in the collection {other} too; name it once", field=f"sources.{index}.images"
                )


def _require_folder(place: Store, field: str) -> None:
    if place.local_path is not None and not place.local_path.is_dir():
        raise InputError(f"no folder {place.uri}", field=field)
