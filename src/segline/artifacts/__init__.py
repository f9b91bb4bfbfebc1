"""What each stage leaves behind: one module per stage.

An artifact's module is the only place that knows the names of the stage's files, the number of their format, how they
are written, read back and checked, which facts about them Kubeflow, MLflow and the report show, and which code they
depend on. :mod:`segline.artifacts.table` lists the modules by stage.
"""
