import threading

import pytest

from bluesky_autofocus.clock import VirtualClock, WallClock


class TestVirtualClock:
    def test_stands_still(self):
        clock = VirtualClock()
        assert clock.now_s() == clock.now_s() == 0

    def test_waiting_makes_time_pass_at_once(self):
        clock = VirtualClock()
        seen = []
        cancel = clock.call_after(12.5, lambda: seen.append(clock.now_s()))
        assert seen == [12.5]
        cancel()  # too late, and no error
        clock.advance(7.5)
        assert clock.now_s() == 20

    @pytest.mark.parametrize("seconds", [-1, float("nan")])
    def test_does_not_run_backwards(self, seconds):
        with pytest.raises(ValueError, match="backwards"):
            VirtualClock().advance(seconds)


class TestWallClock:
    @pytest.mark.parametrize("speed", [0, -1, float("nan")])
    def test_speed(self, speed):
        with pytest.raises(ValueError, match="positive"):
            WallClock(speed)

    def test_calls_back_not_before_time(self):
        clock = WallClock(speed=100)
        seen, done, ticks = [], threading.Event(), []
        start_s = clock.now_s()

        def arrived():
            seen.append(clock.now_s() - start_s)
            done.set()

        clock.call_after(20, arrived, tick=lambda: ticks.append(clock.now_s()))
        assert done.wait(10)
        assert seen[0] >= 20
        assert ticks, "20 simulated seconds are 0.2 s"
        assert ticks == sorted(ticks)

    def test_cancel(self):
        clock = WallClock()
        ticked, called = threading.Event(), []
        cancel = clock.call_after(1000, lambda: called.append(1), tick=ticked.set)
        assert ticked.wait(10)
        cancel()
        (thread,) = [t for t in threading.enumerate() if t.name == "bluesky-autofocus-clock"]
        thread.join(10)
        assert not thread.is_alive()
        assert not called
