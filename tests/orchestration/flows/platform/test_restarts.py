"""The waits of a dead service, and the time at which it is given up."""

from flows.platform.restarts import MOST_RESTARTS, WINDOW_SECONDS, Deaths


def test_each_wait_is_twice_the_one_before_up_to_two_minutes_and_then_it_is_given_up():
    deaths = Deaths()
    waits = [deaths.add(10.0 * number) for number in range(MOST_RESTARTS + 1)]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 120, None]
    assert sum(waits[:-1]) > 240, "minutes, in which a database may be restarted"


def test_deaths_that_are_long_ago_do_not_count():
    deaths = Deaths()
    for _ in range(MOST_RESTARTS):
        deaths.add(0.0)
    assert deaths.recent(WINDOW_SECONDS - 1) == MOST_RESTARTS
    assert deaths.add(WINDOW_SECONDS) == 1.0 and deaths.recent(WINDOW_SECONDS) == 1
