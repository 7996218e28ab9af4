"""What networks that tell the defocus from one frame share: the light that the frame is taken under."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from numpy.typing import NDArray

from bluesky_autofocus.defocus import check_light
from bluesky_autofocus.leds import Single, parse_pattern
from bluesky_autofocus.models._model import Model
from bluesky_autofocus.models.card import ModelCard, ModelFileError
from bluesky_autofocus.models.single_shot.features import (
    ContourFeatures,
    StripFeatures,
    make_features,
    patches_of,
)
from bluesky_autofocus.optics import LightOptics

__all__ = ["LEDModel"]


class LEDModel(Model):
    """A network that tells the defocus from one frame under one LED; how, subclasses say.

    Parameters
    ----------
    card, arrays
        As for `Model`. The card states optics, a single LED with its direction, and a range about focus, 0.

    Attributes
    ----------
    optics : LightOptics
        Of the frames.
    features : ContourFeatures or StripFeatures
        What frames are turned into.
    range_um : float
        Defocus to either side for which it answers.
    """

    frames_needed = 1
    features_of: ClassVar[type[ContourFeatures] | type[StripFeatures]]
    """The features that it takes."""

    def __init__(self, card: ModelCard, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(card, arrays)
        with self._complete():
            self.optics = card.inputs.optics
            led = parse_pattern(card.inputs.illumination, self.optics.numerical_aperture)
            self.features: Any = make_features(
                card.features.name,
                self.optics,
                card.inputs.led_na_xy[0],
                card.inputs.patch_px,
                **card.features.parameters,
            )
            low, high = card.valid_range_um  # type: ignore[misc] - caught where it is None
            if not low < 0 < high:
                raise ValueError(f"valid_range_um is {low, high}: expected focus, 0, within it")
        if not isinstance(self.features, self.features_of) or not isinstance(led, Single):
            raise ModelFileError(f"{card.name}: expected {self.features_of.__name__} under a single LED")
        self._led = led
        self.range_um = float(min(-low, high))

    @property
    def leds(self) -> tuple[Single]:
        """The LED that the frame is taken under."""
        return (self._led,)

    def check(self, optics: LightOptics, na_xy_list: Sequence[tuple[float, float]]) -> None:
        """Make sure that frames of these optics and this LED are what the model was trained for.

        Raises
        ------
        ModelMismatchError
            Naming what differs.
        """
        check_light(self.optics, self.leds, optics, na_xy_list)

    def _only(self, frames: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return the frame, or raise a ValueError if it is not one, without colours, of at least a patch."""
        if len(frames) != 1:
            raise ValueError(f"got {len(frames)} frames: expected one")
        patches_of(frames[0], self.features.patch_px)  # its size, before anything is made of its content
        return frames[0]
