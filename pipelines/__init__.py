"""The pipeline on Kubeflow: the same stages as in ``dvc.yaml``, compiled, run and scheduled."""
