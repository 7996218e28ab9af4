"""What a light microscope's images depend on, as one record that documents and model cards share."""

import dataclasses
import math

__all__ = ["LightOptics"]


@dataclasses.dataclass(frozen=True)
class LightOptics:
    """Objective, light and pixels.

    Parameters
    ----------
    numerical_aperture : float
        Of the objective.
    wavelength_um : float
        Centre of the light's spectrum, in vacuum.
    pixel_size_um : float
        Of the recorded frame, in the sample plane: camera pixel times binning over magnification.
    magnification : float
        Of the objective and what follows it.
    refractive_index : float
        Of the immersion medium.

    Raises
    ------
    ValueError
        If a value is not finite and positive, or the aperture exceeds the refractive index.
    """

    numerical_aperture: float = 0.5
    wavelength_um: float = 0.53
    pixel_size_um: float = 0.30
    magnification: float = 20.0
    refractive_index: float = 1.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ValueError(f"{field.name} is {value!r}: expected a positive, finite number")
        if self.numerical_aperture >= self.refractive_index:
            raise ValueError(
                f"numerical_aperture is {self.numerical_aperture!r}: expected less than the refractive "
                f"index, {self.refractive_index!r}"
            )

    @property
    def depth_of_field_um(self) -> float:
        """Return n lambda / NA^2 + n e / NA, with e the pixel in the sample plane."""
        return self.refractive_index * (
            self.wavelength_um / self.numerical_aperture**2 + self.pixel_size_um / self.numerical_aperture
        )

    @property
    def cutoff_per_um(self) -> float:
        """Highest spatial frequency in an image, 2 NA / lambda, in cycles per um."""
        return 2 * self.numerical_aperture / self.wavelength_um
