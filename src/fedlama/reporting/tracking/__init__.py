"""Trackers: TensorBoard without any extra library, Weights & Biases and MLflow as extras."""

from fedlama.reporting.tracking.base import Tracker
from fedlama.reporting.tracking.choose import TRACKERS, trackers
from fedlama.reporting.tracking.mlflow import MLflow
from fedlama.reporting.tracking.tensorboard import TensorBoard
from fedlama.reporting.tracking.wandb import WeightsAndBiases

__all__ = ["TRACKERS", "MLflow", "TensorBoard", "Tracker", "WeightsAndBiases", "trackers"]
