"""A procedural collection: painted portraits with exact 19-label masks, captions and attributes."""

from mmface.data.portraits.collection import write_collection
from mmface.data.portraits.palette import HAIR_COLOURS
from mmface.data.portraits.portrait import Portrait, draw

__all__ = ["HAIR_COLOURS", "Portrait", "draw", "write_collection"]
