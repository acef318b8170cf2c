"""Figures: normals by colour, error maps and comparison grids; curves, confusions and ablation studies.

The figures are matplotlib's own objects, built without pyplot: they need neither a display nor the main thread,
and leave no figure open behind them. matplotlib comes with the extra `train` and is loaded by the first figure.
"""

from normalkit.visualize.charts import confusion_matrix_figure, sparsification_figure, study_figure, training_curves
from normalkit.visualize.figure import save_figure
from normalkit.visualize.grid import colour_sphere, comparison_grid, convention_grid, error_map

__all__ = [
    "colour_sphere",
    "comparison_grid",
    "confusion_matrix_figure",
    "convention_grid",
    "error_map",
    "save_figure",
    "sparsification_figure",
    "study_figure",
    "training_curves",
]
