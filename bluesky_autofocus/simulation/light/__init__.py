"""A transmitted-light microscope with an LED array or a condenser: specimens, image formation, camera."""

from ._camera import LightCamera
from ._condenser import Condenser
from ._imaging import AbbeImageFormation, Aberrations, FieldView
from ._slab import Cell, Specimen
from ._specimens import SPECIMEN_KINDS, specimen

__all__ = [
    "SPECIMEN_KINDS",
    "AbbeImageFormation",
    "Aberrations",
    "Cell",
    "Condenser",
    "FieldView",
    "LightCamera",
    "Specimen",
    "specimen",
]
