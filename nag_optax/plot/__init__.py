"""Figures: paths over contours, curves with their bounds, a heat map, a path of penalties.

Each function draws in the Axes that it is given, or in a new figure of pyplot, and returns the Axes. They
need Matplotlib, which the extra `train` installs.
"""

from nag_optax.plot.coefficients import regularization_path as regularization_path
from nag_optax.plot.contours import trajectories as trajectories
from nag_optax.plot.curves import convergence as convergence
from nag_optax.plot.heatmap import sensitivity as sensitivity
