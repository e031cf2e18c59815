"""Numbers, durations and results as short texts, shared by the pages and the terminal."""

from flows.report.charts import LARGEST
from rlhf_core.metrics import METRICS
from rlhf_core.stage_catalogue import STAGES


def text_of(value: float | None, *, signed: bool = False) -> str:
    """Return a number with four figures, as an integer from 10,000 on; '' for None."""
    if value is None:
        return ""
    if abs(value) >= LARGEST:
        return "not finite"
    places = ",.0f" if abs(value) >= 1e4 else ",.4g"
    return format(value, f"+{places}" if signed else places).replace("-", "\N{MINUS SIGN}")


def interval(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Return '[low, high]'; '' without an interval."""
    return "" if low is None else f"[{text_of(low, signed=signed)}, {text_of(high, signed=signed)}]"


def shortened(text: str, most: int) -> str:
    """Return a text cut to `most` characters, with an ellipsis where it was cut."""
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def memory(mib: float) -> str:
    """Return an amount of memory as '812 MiB' or '3.4 GiB'."""
    return f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def duration(seconds: float) -> str:
    """Return seconds as '3.2 s', '2m 05s' or '1h 02m'."""
    if round(seconds) < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m {rest:02d}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02d}m"


def short_name(metric: str) -> str:
    """Return a metric's name without its prefix and underscores: 'kl per response'."""
    return metric.split("/", 1)[-1].replace("_", " ")


def key_metric_of(stage: str, metrics: dict[str, float]) -> str | None:
    """Return the name of the stage's headline metric; None when it has none."""
    return STAGES[stage].headline_of(metrics) if stage in STAGES else None


def key_metric(stage: str, metrics: dict[str, float]) -> str:
    """Return the stage's headline metric with its unit; '' when it has none."""
    name = key_metric_of(stage, metrics)
    if name is None:
        return ""
    unit = METRICS[name].unit
    value = f"{metrics[name]:,.0f}" if unit == "rows" else f"{metrics[name]:.4g}"
    return f"{short_name(name)} {value}" + (
        "" if unit in ("share", "score", "rows") else f" {unit}"
    )


def counted(number: int, thing: str, things: str = "") -> str:
    """Return a number with its noun, 1 run or 2 runs. things: the plural, where no s makes it."""
    return f"{number} {thing if number == 1 else things or thing + 's'}"
