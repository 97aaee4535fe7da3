"""MLflow's loader of registered bundles. Every registered version names this module, so it must not be moved."""

from mmface.bundles.pyfunc import BundleModel
from mmface.bundles.pyfunc import load_pyfunc as _load_pyfunc

__all__ = ["BundleModel", "_load_pyfunc"]
