"""Where a stage runs beside this machine: Kubeflow, Kubernetes, Ray clusters."""
