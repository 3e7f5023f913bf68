"""Clusters that a pipeline is submitted to: Vertex Pipelines and Kubeflow Pipelines."""
