"""Kubernetes quantities (`100m`, `400Gi`): their value, and whether two of them are the same.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

import re
from decimal import Decimal

_FORM = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?\d+)?")
_FACTORS = {
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}


def parse_quantity(text: str) -> Decimal:
    """The value of a quantity in its base unit. Raises `ValueError` for what is none."""
    found = _FORM.fullmatch(str(text))
    if not found:
        raise ValueError(f"{text!r} is no Kubernetes quantity such as 100m, 4 or 16Gi")
    number, unit = Decimal(found[1]), found[2]
    if unit and unit[0] in "eE" and len(unit) > 1 and unit[1] != "i":
        return number.scaleb(int(unit[1:]))
    return number * _FACTORS.get(unit or "", Decimal(1))
