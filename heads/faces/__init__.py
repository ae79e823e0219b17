"""Faces in one pass: who it is and what it looks like, from one backbone."""

from .model import FacesNetwork, FacesOutput
from .task import FacesResult, FacesTask

__all__ = ["FacesNetwork", "FacesOutput", "FacesResult", "FacesTask"]
