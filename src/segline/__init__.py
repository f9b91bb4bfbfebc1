"""Segline: a production line for semantic segmentation.

From images and label maps to a model that is promoted only when it is proven better. The command line
(``segline --help``) is the one door; each stage of the line is a plain function in :mod:`segline.stages`.
"""

__version__ = "0.2.0"
