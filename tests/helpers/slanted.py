"""A specimen that lies askew under a camera: where it is in focus depends on the place."""

import numpy as np
from bluesky import plans as bp

from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera
from bluesky_autofocus.plans import EveryExposures, autofocus_wrapper

PITCH_UM = 100.0
SHAPE = (96, 128)
NOISE = 20.0
"""In grey levels, so that what is flat is known to be."""


class Slanted:
    """A camera and a stage that move at once; in the last column of the first row there is no specimen.

    Frames are stripes whose contrast falls off within some um of focus, at 5 um in the first column and 1 um
    higher in each that follows; they are brighter in each row.
    """

    columns, rows = 4, 2

    def __init__(self, frame_directory):
        self.x, self.y, self.z = (
            SimulatedAxis(name=f"stage_{axis}", limits=(-500.0, 500.0)) for axis in "xyz"
        )
        self.camera = SimulatedCamera(
            name="camera", render=self.render, frame_directory=frame_directory, frame_shape=SHAPE
        )
        self._noise = np.random.default_rng(0)

    def focus_um(self):
        return 5.0 + self.x.position / PITCH_UM

    def render(self):
        contrast = 2000.0 / (1.0 + ((self.z.position - self.focus_um()) / 4.0) ** 2)
        if round(self.x.position / PITCH_UM) == self.columns - 1 and round(self.y.position / PITCH_UM) == 0:
            contrast = 0.0
        frame = 10_000.0 + 5_000.0 * round(self.y.position / PITCH_UM) + self._noise.normal(0, NOISE, SHAPE)
        frame += contrast * np.sin(np.arange(SHAPE[1]) * 2 * np.pi / 8)
        return frame.astype(np.uint16)

    def scan(self, analysis, every=1, **options):
        """Return a plan that exposes all tiles and focuses before every so many."""
        plan = bp.grid_scan(
            [self.camera],
            *(self.y, 0.0, PITCH_UM * (self.rows - 1), self.rows),
            *(self.x, 0.0, PITCH_UM * (self.columns - 1), self.columns),
        )
        chosen = {"range_um": 40.0, "depth_of_field_um": 4.0, **options}
        return autofocus_wrapper(
            plan,
            "brent",
            when=EveryExposures(every),
            detectors=[self.camera],
            axis=self.z,
            analysis=analysis,
            **chosen,
        )
