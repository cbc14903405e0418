"""What the transcriptions take and return."""

from collections.abc import Callable

import numpy as np

Array = np.ndarray
Gradient = Callable[[Array], Array]
Sequence = Callable[[int], float]
Step = Callable[[Array], Array]
