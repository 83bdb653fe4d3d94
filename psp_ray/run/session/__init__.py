"""A run driven step by step from a notebook or a program: `psp_ray.Session`."""

from psp_ray.run.session.records import Advice, Doubt, QuerySet
from psp_ray.run.session.session import Session

__all__ = ["Advice", "Doubt", "QuerySet", "Session"]
