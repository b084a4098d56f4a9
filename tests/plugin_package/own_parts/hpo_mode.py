"""When worse: a search in the first cycle, and whenever the validation accuracy fell."""

from alhpo.runs.modes import Schedule


class WhenWorse(Schedule):
    """In the first cycle, and when the validation accuracy fell from one cycle to the next."""

    when = "when the validation accuracy falls"

    def cycles(self, sizes):
        return range(len(sizes))

    def searches(self, cycle, sizes, records):
        if cycle < 2:
            return cycle == 0
        before, last = (record.validation for record in records[-2:])
        return bool(before and last) and last["accuracy"] < before["accuracy"]
