"""What a model is trained for: the loss of a batch, and the metrics; one task per file."""

from fedlama.choices.tasks.base import Metric, Metrics, Task
from fedlama.choices.tasks.binary import Binary, MultiLabel
from fedlama.choices.tasks.classification import Classification
from fedlama.choices.tasks.cox import Cox
from fedlama.choices.tasks.functions import FunctionTask, as_task
from fedlama.choices.tasks.hugging_face import HuggingFace
from fedlama.choices.tasks.language_model import LanguageModel
from fedlama.choices.tasks.regression import Regression
from fedlama.choices.tasks.segmentation import Segmentation

__all__ = [
    "Binary",
    "Classification",
    "Cox",
    "FunctionTask",
    "HuggingFace",
    "LanguageModel",
    "Metric",
    "Metrics",
    "MultiLabel",
    "Regression",
    "Segmentation",
    "Task",
    "as_task",
]
