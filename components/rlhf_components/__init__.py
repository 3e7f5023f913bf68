"""KFP components, one file each: a signature, a docstring and a short body that calls `rlhf_tuning`.

A component hides the module of its name: `rlhf_components.evaluate` is the component, and so is what
`from rlhf_components.evaluate import evaluate` gives. All are imported at once, since what a lazy list gives for such a name
would depend on what was imported before. That takes kfp, so the command imports none of it before it must.
"""

from rlhf_components.choose_start import choose_start
from rlhf_components.compare_methods import compare_methods
from rlhf_components.count_new_preferences import count_new_preferences
from rlhf_components.deploy_model import deploy_model
from rlhf_components.divide_method_data import divide_method_data
from rlhf_components.evaluate import evaluate
from rlhf_components.find_champion import find_champion
from rlhf_components.import_demonstration_dataset import import_demonstration_dataset
from rlhf_components.import_preference_dataset import import_preference_dataset
from rlhf_components.import_prompt_dataset import import_prompt_dataset
from rlhf_components.import_supervised_dataset import import_supervised_dataset
from rlhf_components.infer import infer
from rlhf_components.keep_champion import keep_champion
from rlhf_components.label_demonstrations import label_demonstrations
from rlhf_components.label_preferences import label_preferences
from rlhf_components.nothing_new import nothing_new
from rlhf_components.preprocess_inputs import preprocess_inputs
from rlhf_components.smoke_light import smoke_light
from rlhf_components.smoke_report import smoke_report
from rlhf_components.smoke_trainer import smoke_trainer
from rlhf_components.smoke_verdict import smoke_verdict
from rlhf_components.train_policy import train_policy
from rlhf_components.train_preference import train_preference
from rlhf_components.train_reward_model import train_reward_model
from rlhf_components.train_student import train_student
from rlhf_components.train_supervised import train_supervised
from rlhf_components.upload_model import upload_model
from rlhf_components.upload_model_to_kubeflow import upload_model_to_kubeflow
from rlhf_components.upload_model_to_vertex import upload_model_to_vertex
from rlhf_components.upload_tensorboard_metrics import upload_tensorboard_metrics
from rlhf_components.validate_inputs import validate_inputs

#: In the order of the graph; then those of a comparison of methods, and of the smoke test.
__all__ = [  # noqa: RUF022
    "count_new_preferences",
    "nothing_new",
    "validate_inputs",
    "preprocess_inputs",
    "import_demonstration_dataset",
    "label_demonstrations",
    "import_supervised_dataset",
    "train_supervised",
    "choose_start",
    "train_student",
    "label_preferences",
    "import_preference_dataset",
    "train_reward_model",
    "train_preference",
    "import_prompt_dataset",
    "train_policy",
    "find_champion",
    "infer",
    "evaluate",
    "upload_model",
    "upload_model_to_vertex",
    "deploy_model",
    "keep_champion",
    "upload_tensorboard_metrics",
    "upload_model_to_kubeflow",
    "divide_method_data",
    "compare_methods",
    "smoke_light",
    "smoke_trainer",
    "smoke_report",
    "smoke_verdict",
]
