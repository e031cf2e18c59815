"""Learning-rate schedules."""


def linear_schedule(step: int, steps: int, *, peak: float, warmup_ratio: float) -> float:
    """Return the learning rate of the 1-based `step`.

    Linear warm-up to `peak`, then linear decay that reaches 0 one step after the last.
    """
    warmup = max(1, round(steps * warmup_ratio))
    if step <= warmup:
        return peak * step / warmup
    return peak * (steps + 1 - step) / (steps + 1 - warmup)
