"""Simulated microscopes as plain arrays: scenes, and the images that optics make of them."""

from .article import ArticleMicroscope
from .fluorescence import HOECHST_20X, FluorescentNuclei
from .light import (
    SPECIMEN_KINDS,
    AbbeImageFormation,
    Aberrations,
    Cell,
    Condenser,
    FieldView,
    LightCamera,
    Specimen,
    specimen,
)
from .scenes import KINDS, scene, scene_from_image
from .sem import SEMImageFormation, SEMOptics
from .slide import Slide
from .smear import CLASS_WIDTH_UM, Smear, SmearCamera, SmearOptics

__all__ = [
    "CLASS_WIDTH_UM",
    "HOECHST_20X",
    "KINDS",
    "SPECIMEN_KINDS",
    "AbbeImageFormation",
    "Aberrations",
    "ArticleMicroscope",
    "Cell",
    "Condenser",
    "FieldView",
    "FluorescentNuclei",
    "LightCamera",
    "SEMImageFormation",
    "SEMOptics",
    "Slide",
    "Smear",
    "SmearCamera",
    "SmearOptics",
    "Specimen",
    "scene",
    "scene_from_image",
    "specimen",
]
