"""The library that runs inside the containers: data, reward model, reinforcement, evaluation, registry.

It knows nothing of Kubeflow Pipelines. Modules that need torch import it themselves, so `import rlhf_tuning` stays light.
"""

__version__ = "0.2.0"

__all__ = ["__version__"]
