"""What a kernel costs that XLA calls without knowing it: the splash attention of `selfadapt.models.splash`.

Of causal attention it visits the blocks of scores on and below the diagonal. It reads queries, keys and values again
for each block that it visits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from selfadapt.plan.hlo.instruction import Array

# Products in a block: of the forward pass, of the gradient of queries, and of that of keys and values.
PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}


def kernel_cost(name: str, operands: Sequence[Array]) -> tuple[float, float]:
    """Returns the FLOPs and the bytes read again of a kernel of splash attention, on one device.

    Args:
      name: the name of the instruction, such as "splash_mqa_fwd_segmented_residuals.1".
      operands: its operands: two maps of blocks `[.., blocks of queries, blocks of keys]`, then queries `[.., T, E]`.

    Raises:
      ValueError: it is another kernel, whose cost is unknown.
    """
    found = re.match(r"splash_mqa_(fwd|dq|dkv)_", name)
    if found is None:
        raise ValueError(f"the cost of the kernel {name} is unknown; describe it in selfadapt.plan.hlo.kernels")
    count = operands[0].dims[-1]
    *heads, time, features = operands[2].dims
    block = time // count
    visited = math.prod(heads) * count * (count + 1) // 2
    read = 2 * block * features * operands[2].bytes / math.prod(operands[2].dims)
    return visited * PRODUCTS[found[1]] * 2 * block * block * features, visited * read
