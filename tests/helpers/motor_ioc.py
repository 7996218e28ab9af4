"""Motor records that caproto simulates, and lengths in several units: `python -m motor_ioc all`."""

import argparse
import asyncio
import math
import os
import sys
import threading

from caproto.asyncio.server import start_server
from caproto.ioc_examples.fake_motor_record import FakeMotor
from caproto.server import PVGroup, SubGroup, pvproperty

TICK_S = 0.02
COASTING_UM = 6.0
"""How far a heavy stage goes on when it is stopped."""

MOTION = {"velocity": 200.0, "tick_rate_hz": 50.0, "resolution": 0.01}


def length(unit, limits=(1.0, 5.0)):
    return pvproperty(
        value=3.0, units=unit, precision=4, lower_ctrl_limit=limits[0], upper_ctrl_limit=limits[1]
    )


class HeavyMotor(PVGroup):
    """A stage that takes 0.3 s to come to rest; what it is told meanwhile it does then."""

    motor = pvproperty(value=0.0, name="", record="motor", precision=3)

    @motor.startup
    async def motor(self, instance, async_lib):
        record, told, at_um = instance.field_inst, asyncio.Event(), 0.0

        async def hear(fields, value):
            told.set()

        record.value_write_hook = hear
        await record.user_high_limit.write(100.0)
        await record.user_low_limit.write(-100.0)
        while True:
            await told.wait()
            told.clear()
            await record.done_moving_to_value.write(0)
            target_um, step_um = instance.value, 100.0 * TICK_S
            while at_um != target_um:
                if record.stop.value:
                    await record.stop.write(0)
                    target_um, step_um = at_um + math.copysign(COASTING_UM, target_um - at_um), 0.4
                at_um += min(max(target_um - at_um, -step_um), step_um)
                await record.user_readback_value.write(at_um)
                await asyncio.sleep(TICK_S)
            await record.done_moving_to_value.write(1)


class Motors(PVGroup):
    um = SubGroup(FakeMotor, prefix="um", user_limits=(-100.0, 100.0), **MOTION)
    mm = SubGroup(FakeMotor, prefix="mm", user_limits=(-0.1, 0.1), **{**MOTION, "velocity": 0.2})
    free = SubGroup(FakeMotor, prefix="free", user_limits=(0.0, 0.0), **MOTION)
    heavy = SubGroup(HeavyMotor, prefix="heavy")
    in_um, in_micron, in_mm, in_m, in_nothing, in_volts = map(length, ("um", "micron", "mm", "m", "", "V"))
    without_limits = length("um", (0.0, 0.0))


async def serve(prefix):
    motors = Motors(prefix)
    for name, unit in (("um", "um"), ("mm", "mm"), ("free", "um"), ("heavy", "um")):
        record = motors.pvdb[f"{prefix}{name}"]
        await record.write_metadata(units=unit)
        await record.field_inst.engineering_units.write(unit)

    async def serving(_):
        print("serving motors", flush=True)  # noqa: T201 - the answer that is waited for

    await start_server(motors.pvdb, interfaces=["127.0.0.1"], log_pv_names=False, startup_hook=serving)


def end_with_input():
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what")
    parser.add_argument("--prefix")
    threading.Thread(target=end_with_input, daemon=True).start()
    os.environ["EPICS_CA_SERVER_PORT"] = os.environ["EPICS_CAS_SERVER_PORT"]
    asyncio.run(serve(parser.parse_args().prefix))
