import gc
import math
import subprocess
import sys
import threading

import pytest
from greenlet import greenlet
from scipy.optimize import brentq, minimize_scalar
from solvers import know_solvers, live_solvers

from bluesky_autofocus.search import inverted


def parabola(x: float) -> float:
    return (x - 0.3) ** 2 + 0.1 * math.sin(5 * x)


def cubic(x: float) -> float:
    return x**3 - 0.2


SOLVERS = {
    "bounded Brent": (
        parabola,
        lambda f: minimize_scalar(f, bounds=(-2, 5), method="bounded", options={"xatol": 1e-4}).x,
    ),
    "unbounded Brent": (parabola, lambda f: minimize_scalar(f, method="brent").x),
    "golden section": (parabola, lambda f: minimize_scalar(f, bracket=(-1, 1), method="golden").x),
    "root finding in C": (cubic, lambda f: brentq(f, -1, 2)),
}


@pytest.fixture(autouse=True)
def no_solver_is_left_behind(monkeypatch):
    know_solvers(monkeypatch)
    before = live_solvers()
    yield
    assert [one for one in live_solvers() if one not in before] == []


def driven(search, function) -> tuple[list[float], object]:
    asked = []
    try:
        x = next(search)
        while True:
            asked.append(x)
            x = search.send(function(x))
    except StopIteration as end:
        return asked, end.value


@pytest.mark.parametrize("name", SOLVERS)
def test_asks_for_what_the_solver_evaluates(name):
    function, solve = SOLVERS[name]
    expected = []

    def recorded(x):
        expected.append(float(x))
        return function(x)

    answer = solve(recorded)
    assert driven(inverted(solve), function) == (expected, answer)


@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("name", SOLVERS)
def test_closing_ends_the_solver(name, steps):
    function, solve = SOLVERS[name]
    search = inverted(solve)
    x = next(search)
    for _ in range(steps):
        x = search.send(function(x))
    before = len(live_solvers())
    search.close()
    assert len(live_solvers()) == before - 1


def test_throwing_in_ends_the_solver():
    search = inverted(SOLVERS["bounded Brent"][1])
    next(search)
    with pytest.raises(KeyError, match="thrown"):
        search.throw(KeyError("thrown"))


def test_abandoning_ends_the_solver():
    search = inverted(SOLVERS["root finding in C"][1])
    next(search)
    del search
    gc.collect()


def test_never_started():
    inverted(SOLVERS["golden section"][1]).close()


def test_closing_lets_the_solver_clean_up():
    cleaned = []

    def solve(f):
        try:
            f(1.0)
        finally:
            cleaned.append(True)

    search = inverted(solve)
    next(search)
    search.close()
    assert cleaned == [True]


@pytest.mark.parametrize("after", [0, 2])
def test_an_error_of_the_solver_passes_through(after):
    def solve(f):
        for x in range(after):
            f(float(x))
        raise ZeroDivisionError("of the solver")

    with pytest.raises(ZeroDivisionError, match="of the solver"):
        driven(inverted(solve), parabola)


def test_the_answer_may_be_anything():
    assert driven(inverted(lambda f: {"y": f(2)}), lambda x: x + 1) == ([2.0], {"y": 3.0})


def test_two_at_a_time():
    (function, solve), (other_function, other_solve) = (
        SOLVERS["bounded Brent"],
        SOLVERS["root finding in C"],
    )
    expected = [driven(inverted(solve), function), driven(inverted(other_solve), other_function)]
    searches = [inverted(solve), inverted(other_solve)]
    functions = [function, other_function]
    asked, answers = [[], []], [None, None]
    xs = [next(search) for search in searches]
    while None in answers:
        for i, search in enumerate(searches):
            if answers[i] is None:
                asked[i].append(xs[i])
                try:
                    xs[i] = search.send(functions[i](xs[i]))
                except StopIteration as end:
                    answers[i] = end.value
    assert list(zip(asked, answers, strict=True)) == expected


def test_one_inside_another():
    def outer(f):
        inner_asked, _ = driven(inverted(lambda g: [g(1.0), g(2.0)]), lambda x: f(10 * x))
        return inner_asked

    assert driven(inverted(outer), parabola) == ([10.0, 20.0], [1.0, 2.0])


def test_driven_by_another_greenlet_than_it_was_started_by():
    function, solve = SOLVERS["bounded Brent"]
    expected, _ = driven(inverted(solve), function)
    search = inverted(solve)
    asked = [greenlet(lambda: next(search)).switch()]
    try:
        while True:
            asked.append(greenlet(search.send).switch(function(asked[-1])))
    except StopIteration:
        pass
    assert asked == expected


class TestAnotherThread:
    """A greenlet belongs to the thread that started it, so only that thread can drive it."""

    @staticmethod
    def elsewhere(function):
        outcome = []

        def run():
            try:
                outcome.append(function())
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return outcome[0]

    def test_started_and_driven_to_its_end_there(self):
        function, solve = SOLVERS["bounded Brent"]
        assert self.elsewhere(lambda: driven(inverted(solve), function)) == driven(inverted(solve), function)


CLOSED_ELSEWHERE = """
import threading
from bluesky_autofocus.search import inverted
search = inverted(lambda f: [f(1.0), f(2.0)])
assert next(search) == 1.0
def close():
    try:
        search.close()
    except ValueError as error:
        assert "different thread" in str(error), error
thread = threading.Thread(target=close)
thread.start()
thread.join()
again = inverted(lambda f: [f(1.0), f(2.0)])
assert next(again) == 1.0 and again.send(0.0) == 2.0
again.close()
print("unharmed")
"""


def test_closed_from_another_thread():
    """It may raise a ValueError there, but harms neither the interpreter nor other searches."""
    done = subprocess.run([sys.executable, "-c", CLOSED_ELSEWHERE], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "unharmed"), done.stderr
