"""Collections of photographs: lists, reads and hashes each layout; source files are never changed.

One module per layout (``image_folder ffhq celebamask parquet authors``). ``layouts`` lists any of them, ``read`` reads
one photograph with its sidecars, ``images`` is the stage, and ``identity`` hashes the content that names its dataset.
"""

from mmface.imaging.decode import open_image

__all__ = ["open_image"]
