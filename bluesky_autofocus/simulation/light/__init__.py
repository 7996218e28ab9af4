"""A transmitted-light microscope with an LED array: specimens, image formation, camera."""

from ._camera import LightCamera
from ._imaging import AbbeImageFormation, Aberrations, FieldView
from ._specimens import SPECIMEN_KINDS, Specimen, specimen

__all__ = [
    "SPECIMEN_KINDS",
    "AbbeImageFormation",
    "Aberrations",
    "FieldView",
    "LightCamera",
    "Specimen",
    "specimen",
]
