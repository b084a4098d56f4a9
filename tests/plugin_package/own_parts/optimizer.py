"""Best two: every configuration for one epoch, and the best two of them to the end."""

import math


class BestTwo:
    """Suggests as HPO4DL's optimizers do."""

    def __init__(self, n: int, max_epochs: int) -> None:
        self.waiting = list(range(n))
        self.first = {}
        self.best = None
        self.max_epochs = max_epochs

    def suggest(self):
        if self.waiting:
            return [self.waiting.pop(0)], [1]
        if self.best is None:
            ranked = sorted(self.first, key=lambda number: (-self.first[number], number))
            self.best = ranked[:2] if self.max_epochs > 1 else []
        if self.best:
            return [self.best.pop(0)], [self.max_epochs]
        return None, None  # nothing left to do

    def observe(self, configuration_results):
        for result in configuration_results:
            if result["epoch"] == 1 and not math.isnan(result["metric"]):
                self.first[result["configuration_id"]] = result["metric"]


def best_two(configurations, *, max_epochs, max_budget, num_configurations, seed, device):
    """Makes the optimizer of one search."""
    configurations.add_configurations(num_configurations - len(configurations))
    return BestTwo(len(configurations), max_epochs)
