"""Figures: normals by colour, error maps, grids, photos in another light; training curves, confusions, ablations.

The figures are matplotlib's own objects, built without pyplot: they need neither a display nor the main thread,
and leave no figure open behind them. matplotlib comes with the extra `train` and is loaded by the first figure.
"""

from normalkit.visualize.charts import confusion_matrix_figure, study_figure, training_curves
from normalkit.visualize.figure import save_figure
from normalkit.visualize.grid import colour_sphere, comparison_grid, convention_grid, error_map
from normalkit.visualize.relight import relight

__all__ = [
    "colour_sphere",
    "comparison_grid",
    "confusion_matrix_figure",
    "convention_grid",
    "error_map",
    "relight",
    "save_figure",
    "study_figure",
    "training_curves",
]
