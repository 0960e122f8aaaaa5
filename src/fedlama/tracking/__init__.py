"""Tracking of runs by what people use: TensorBoard without any extra library, Weights & Biases and MLflow as extras."""

from fedlama.tracking.base import Tracker
from fedlama.tracking.choose import TRACKERS, trackers
from fedlama.tracking.mlflow import MLflow
from fedlama.tracking.tensorboard import TensorBoard
from fedlama.tracking.wandb import WeightsAndBiases

__all__ = ["TRACKERS", "MLflow", "TensorBoard", "Tracker", "WeightsAndBiases", "trackers"]
