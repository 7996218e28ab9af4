"""Simulated microscopes as plain arrays: scenes, and the images that optics make of them."""

from .article import ArticleMicroscope
from .scenes import KINDS, scene, scene_from_image
from .sem import SEMImageFormation, SEMOptics

__all__ = ["KINDS", "ArticleMicroscope", "SEMImageFormation", "SEMOptics", "scene", "scene_from_image"]
