"""The loader that MLflow calls for registered bundles. Every registered version names this module: do not move it."""

from mmface.bundles.bundle import load_pyfunc as _load_pyfunc

__all__ = ["_load_pyfunc"]
