"""Our own DyHPO: freeze-thaw search that learns from earlier searches."""

from alhpo.tuning.optimizers.dyhpo.optimizer import DyHPO, dyhpo

__all__ = ["DyHPO", "dyhpo"]
