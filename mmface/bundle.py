"""MLflow's loader of registered bundles: every registered version names this module, so it keeps its place."""

from mmface.bundles.bundle import load_pyfunc as _load_pyfunc

__all__ = ["_load_pyfunc"]
