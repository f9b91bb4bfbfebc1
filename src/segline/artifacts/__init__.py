"""The artifacts, which the stages write: one module per stage.

Only an artifact's module knows the names of the stage's files, the number of their format, how they are written, read
and checked, which metadata and metrics Kubeflow shows, and which code the content depends on.
:mod:`segline.artifacts.table` lists the modules by stage.
"""
