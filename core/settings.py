"""Types of settings that many parts share: what a recipe may write, with its bounds.

A constructor's keyword-only parameters are the recipe's schema, so these aliases are where bounds are said once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

Count = Annotated[int, Ge(1)]
"""A whole number of at least one."""
Natural = Annotated[int, Ge(0)]
"""A whole number of at least zero."""
Width = Annotated[int, Ge(1)]
"""Features of a token or channels of a map."""
Depth = Annotated[int, Ge(1)]
"""Number of blocks."""
Heads = Annotated[int, Ge(1)]
"""Attention heads; must divide the width, which the part checks itself."""
Steps = Annotated[int, Ge(1)]
"""Steps of a sampler or of a chain."""
Share = Annotated[float, Ge(0.0), Le(1.0)]
"""A probability or a fraction, 0 to 1."""
Positive = Annotated[float, Gt(0.0)]
NonNegative = Annotated[float, Ge(0.0)]
Size = tuple[Count, Count]
"""Rows and columns."""
Cube = tuple[Count, Count, Count]
"""Frames, rows, columns."""
Precision = Literal["float32", "bfloat16"]
TrainingPrecision = Literal["float32", "bfloat16", "auto"]
