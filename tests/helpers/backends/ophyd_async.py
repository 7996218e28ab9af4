"""ophyd-async devices: its simulated motor, its detector that writes files, and LEDs that are a signal."""

import asyncio
import contextlib
import dataclasses
import functools
import math

from backends import Bench

LIMITS_UM = (-100.0, 100.0)


@contextlib.contextmanager
def opened(directory, RE):  # noqa: N803
    import h5py
    import numpy as np
    from bluesky import plan_stubs as bps
    from ophyd_async.core import (
        AsyncStatus,
        AutoIncrementingPathProvider,
        DetectorAcquireLogic,
        DetectorDataLogic,
        DetectorTriggerLogic,
        StandardDetector,
        StandardReadable,
        StaticFilenameProvider,
        StreamResourceDataProvider,
        StreamResourceInfo,
        TriggerInfo,
        init_devices,
        soft_signal_r_and_setter,
        soft_signal_rw,
    )
    from ophyd_async.core import StandardReadableFormat as Format
    from ophyd_async.sim import SimMotor
    from ophyd_async.sim._motor import SimMotorMoveLogic

    from bluesky_autofocus.leds import Orientation, parse_pattern
    from bluesky_autofocus.simulation.served import ServedMicroscope

    served = ServedMicroscope((512, 512), focus_um=3.0, z_um=-9.0)
    geometry = served.geometry.turned(Orientation())
    plugged = [True]

    class Limited(SimMotorMoveLogic):
        async def check_move(self, new_position):
            if not LIMITS_UM[0] <= new_position <= LIMITS_UM[1]:
                raise ValueError(f"{new_position} um is beyond the limits {LIMITS_UM}")

    class Stage(SimMotor):
        """A motor in um with limits."""

        @functools.cached_property
        def movable_logic(self):
            made = super().movable_logic
            return Limited(**{field.name: getattr(made, field.name) for field in dataclasses.fields(made)})

    class File(DetectorDataLogic):
        """Frames as rows of an HDF5 file that can be read while it is written."""

        def __init__(self, path_provider):
            self.path_provider = path_provider
            self.written, self.set_written = soft_signal_r_and_setter(int)
            self.file = None

        async def prepare_unbounded(self, datakey_name):
            path = self.path_provider(datakey_name)
            path.directory_path.mkdir(parents=True, exist_ok=True)
            self.file = h5py.File(path.directory_path / f"{path.filename}.h5", "w", libver="latest")
            shape = served.frame_shape
            self.rows = self.file.create_dataset(
                "/entry/data/data", (0, *shape), served.dtype, maxshape=(None, *shape), chunks=(1, *shape)
            )
            self.file.swmr_mode = True
            self.set_written(0)
            dtype = np.dtype(served.dtype).str
            resource = StreamResourceInfo(
                data_key=datakey_name,
                shape=shape,
                chunk_shape=(1, *shape),
                dtype_numpy=dtype,
                parameters={"dataset": "/entry/data/data"},
            )
            return StreamResourceDataProvider(
                uri=f"{path.directory_uri}{path.filename}.h5",
                resources=[resource],
                mimetype="application/x-hdf5",
                collections_written_signal=self.written,
            )

        def write(self, frame):
            row = len(self.rows)
            self.rows.resize(row + 1, axis=0)
            self.rows[row] = frame
            self.rows.flush()
            self.set_written(row + 1)

        def get_hinted_fields(self, datakey_name):
            return []

        async def stop(self):
            if self.file is not None:
                self.file.close()
                self.file = None

    class Exposing(DetectorAcquireLogic):
        def __init__(self, file):
            self.file, self.task = file, None

        async def start_acquiring(self):
            if not plugged[0]:
                raise ConnectionError("camera does not answer")
            self.task = asyncio.create_task(self.expose())

        async def expose(self):
            served.z_um = await axis.user_readback.get_value()
            self.file.write(await asyncio.to_thread(served.frame))

        async def wait_for_idle(self):
            if self.task:
                await self.task

        async def ensure_stopped(self):
            if self.task and not self.task.done():
                self.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self.task
            self.task = None

    class Internal(DetectorTriggerLogic):
        async def prepare_internal(self, num, livetime, deadtime):
            pass

        async def default_trigger_info(self):
            return TriggerInfo()

    class Camera(StandardDetector):
        def __init__(self, name=""):
            file = File(AutoIncrementingPathProvider(StaticFilenameProvider("frames"), directory))
            self.exposure_s = soft_signal_rw(float, 0.01, units="s")
            self.add_detector_logics(Internal(), Exposing(file), file)
            self.add_config_signals(self.exposure_s)
            super().__init__(name=name)

    class LEDs(StandardReadable):
        """Shows a pattern; reads as our own arrays do, so that analyses know the light."""

        def __init__(self, name=""):
            with self.add_children_as_readables(Format.HINTED_SIGNAL):
                self.pattern = soft_signal_rw(str, "off")
            with self.add_children_as_readables():
                self.na_x = soft_signal_rw(float, math.nan)
                self.na_y = soft_signal_rw(float, math.nan)
                self.calibrated = soft_signal_rw(bool, True)
            super().__init__(name=name)

        def set_name(self, name, *, child_name_separator=None):
            super().set_name(name, child_name_separator="_")
            self.pattern.set_name(name)

        @AsyncStatus.wrap
        async def set(self, value):
            lit = geometry.select(parse_pattern(value, 0.5))
            served.light(lit)
            na_x, na_y = geometry.na_xy[list(lit)].mean(axis=0)
            await asyncio.gather(self.na_x.set(na_x), self.na_y.set(na_y), self.pattern.set(str(value)))

    with init_devices():
        axis = Stage(instant=True, initial_value=served.z_um, units="um")
        camera = Camera()
        leds = LEDs()

    def on_loop(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, RE.loop).result(5)

    yield Bench(
        detectors=[camera],
        axis=axis,
        image_key="camera",
        frame_shape=served.frame_shape,
        bounds_um=(-17.0, 23.0),
        limits_um=LIMITS_UM,
        depth_of_field_um=served.depth_of_field_um,
        where_um=lambda: on_loop(axis.user_readback.get_value()),
        focus_um=lambda: served.focus_um,
        slow_down=lambda: RE(bps.mv(axis.velocity, 10.0)),
        lose=lambda: plugged.__setitem__(0, False),
        restore=lambda: plugged.__setitem__(0, True),
        lost_names="camera",
        leds=leds,
        lit=lambda: served.lit,
        transmitted=functools.partial(setattr, served, "lamp", False),
        focus_of_cells_um=lambda: served.focus_of_cells_um,
    )
