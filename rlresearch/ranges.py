"""Types of settings with their ranges, by pydantic's names. `config/instantiate.py` checks a setting by its type."""

from __future__ import annotations

from typing import Annotated

import annotated_types as at

PositiveInt = Annotated[int, at.Gt(0)]
NonNegativeInt = Annotated[int, at.Ge(0)]
PositiveFloat = Annotated[float, at.Gt(0)]
NonNegativeFloat = Annotated[float, at.Ge(0)]
Fraction = Annotated[float, at.Interval(ge=0, le=1)]
PositiveFraction = Annotated[float, at.Interval(gt=0, le=1)]
