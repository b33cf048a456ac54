"""Grids of stored position tables."""

from __future__ import annotations

import math

from mutoscope.core.errors import InputError
from mutoscope.core.values import Grid


def old_grid(places: int, new: Grid) -> Grid:
    """The grid of a table of so many places: the new one's rows and columns if they divide, else one square frame.

    Raises InputError.
    """
    plane = new.rows * new.columns
    if places % plane == 0:
        return Grid(places // plane, new.rows, new.columns)
    side = math.isqrt(places)
    if side * side != places:
        raise InputError(problem="holds positions of an unknown grid", got=places, allowed="a square, or whole frames")
    return Grid(1, side, side)
