"""Collections of photographs: how each layout is listed, read, decoded and known by its content.

Sources are only ever read. One module a layout (``folder ffhq celebamask parquet authors``); ``layouts`` lists any of
them, ``read`` reads a row, ``decode`` decodes it (``png`` keeps large texts from it), ``images`` is the stage and
``identity`` what names it.
"""

from mmface.imaging.decode import open_image

__all__ = ["open_image"]
