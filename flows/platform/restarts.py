"""Decide when a service that has died is started again, and when no more."""

from dataclasses import dataclass, field

MOST_RESTARTS = 8  # within the window; the ninth death is the last one
WINDOW_SECONDS = 1800.0
FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS = 1.0, 120.0


@dataclass
class Deaths:
    """The deaths of one service within the window, by the seconds of a clock that nobody moves.

    The waits 1, 2, 4, ..., 120 s add up to four minutes, so that an outage of what the service
    needs (a database, a full disk) may last for minutes before the service is given up.
    """

    times: list[float] = field(default_factory=list)

    def recent(self, now: float) -> int:
        """Return how many deaths are in the window that ends now."""
        self.times = [time for time in self.times if now - time < WINDOW_SECONDS]
        return len(self.times)

    def add(self, now: float) -> float | None:
        """Record a death; return the seconds until the next start, None when it was the last."""
        self.times.append(now)
        count = self.recent(now)
        if count > MOST_RESTARTS:
            return None
        return min(MOST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** (count - 1))
