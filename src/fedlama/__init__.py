"""Communication-efficient federated learning: layer-wise schedules, exact byte accounting, fast simulation.

What this module exports is public: it changes only as CHANGELOG.md says. The rooms behind it (docs/architecture.md) may
change between two minor versions.
"""

from typing import TYPE_CHECKING

from fedlama.core.deprecations import Renamed, renamed_attributes
from fedlama.core.later import imported_later

if TYPE_CHECKING:
    __version__: str
    from fedlama import data, models
    from fedlama.analysis.forecast import forecast
    from fedlama.analysis.links import Exchanges, Link, clock
    from fedlama.analysis.study import Study, StudyPlan, run_study
    from fedlama.analysis.sweep import Sweep
    from fedlama.choices.aggregators import (
        Aggregator,
        Combined,
        ElementMean,
        FedLPA,
        Mean,
        Median,
        NormBound,
        TrimmedMean,
    )
    from fedlama.choices.availability import Absence, Always, Availability, Fate, RandomAbsence, Trace
    from fedlama.choices.codecs import (
        LBGM,
        QSGD,
        BFloat16,
        Chain,
        Codec,
        CodecContext,
        CodecState,
        CohortContext,
        ContextCodec,
        DifferenceCodec,
        Differences,
        Directions,
        EightBitRows,
        Float16,
        Float32,
        LayerMask,
        PowerSGD,
        RandomK,
        Sign,
        TopK,
    )
    from fedlama.choices.personal import Personal
    from fedlama.choices.privacy import Privacy
    from fedlama.choices.samplers import AllClients, Population, PowerOfChoice, Sampler, UniformSampler, WeightedSampler
    from fedlama.choices.server_optimizers import (
        Replace,
        ServerAdagrad,
        ServerAdam,
        ServerFedDyn,
        ServerMomentum,
        ServerNesterov,
        ServerOptimizer,
        ServerOptimizerState,
        ServerYogi,
    )
    from fedlama.choices.solvers import (
        SGD,
        Adam,
        AdamW,
        Clipping,
        Exchanged,
        FedAMS,
        FedDyn,
        FedLAMB,
        FedProx,
        FedRep,
        LayerRates,
        LocalSolver,
        MimeLAMB,
        OptimizerState,
        ParameterGroup,
        Scaffold,
        Schedule,
        SolverOptions,
        along_clients,
        client_norms,
        server_value_of,
        tensor_norms,
    )
    from fedlama.choices.strategies import (
        AdaComm,
        Budget,
        Courses,
        Cyclic,
        FedAvg,
        FedLAMA,
        FedLDF,
        FedLP,
        FedLUAR,
        FixedIntervals,
        PartialAveraging,
        Pooled,
        Strategy,
    )
    from fedlama.choices.tasks import (
        Binary,
        Classification,
        Cox,
        FunctionTask,
        HuggingFace,
        LanguageModel,
        Metric,
        MultiLabel,
        Regression,
        Segmentation,
        Task,
    )
    from fedlama.core.adapters import lora_layers
    from fedlama.core.client_scores import ClientScores, Spread
    from fedlama.core.layers import Layer, Layers, TensorSpec, by_mapping, by_module, by_tensor, tagged
    from fedlama.core.ledger import Ledger
    from fedlama.core.local_work import LocalWork
    from fedlama.core.plan import LayerStatistics, Plan, Senders
    from fedlama.core.records import Best, LayerRecord, Result, RoundRecord, Score
    from fedlama.core.registry import register
    from fedlama.core.trees import pad
    from fedlama.data.clients import ClientData, ClientSource, ReplayedClients, TensorClients
    from fedlama.data.datasets import DatasetClients
    from fedlama.data.samples import PadCollate
    from fedlama.engines import Auto, Distributed, Recorded, Stacked, Workers
    from fedlama.errors import ConfigError, DataError, DivergenceError, FedlamaError, MissingExtraError
    from fedlama.experiment import Experiment, load_experiment
    from fedlama.federation.callbacks import Callback, CallbackError, RoundCallback, StopRun
    from fedlama.federation.federation import Federation
    from fedlama.federation.held_out import TestSet
    from fedlama.federation.pooled import pooled
    from fedlama.federation.run import Run
    from fedlama.federation.state import Snapshot
    from fedlama.federation.stopping import EarlyStopping
    from fedlama.models.adapters import save_adapter
    from fedlama.reporting.html import write_report
    from fedlama.reporting.sweeping import sweep
    from fedlama.reporting.tracking import MLflow, TensorBoard, WeightsAndBiases
    from fedlama.reporting.training import compare, run
    from fedlama.runs.autosave import Interrupted
    from fedlama.runs.checkpoint import save_snapshot, whole_snapshots
    from fedlama.runs.execute import RunOptions
    from fedlama.runs.folder import RunFolder
    from fedlama.runs.stored import StoredRun, find_runs, load_run
    from fedlama.runs.verify import Verdict, verify

__all__ = [
    "LBGM",
    "QSGD",
    "SGD",
    "Absence",
    "AdaComm",
    "Adam",
    "AdamW",
    "Aggregator",
    "AllClients",
    "Always",
    "Auto",
    "Availability",
    "BFloat16",
    "Best",
    "Binary",
    "Budget",
    "Callback",
    "CallbackError",
    "Chain",
    "Classification",
    "ClientData",
    "ClientScores",
    "ClientSource",
    "Clipping",
    "Codec",
    "CodecContext",
    "CodecState",
    "CohortContext",
    "Combined",
    "ConfigError",
    "ContextCodec",
    "Courses",
    "Cox",
    "Cyclic",
    "DataError",
    "DatasetClients",
    "DifferenceCodec",
    "Differences",
    "Directions",
    "Distributed",
    "DivergenceError",
    "EarlyStopping",
    "EightBitRows",
    "ElementMean",
    "Exchanged",
    "Exchanges",
    "Experiment",
    "Fate",
    "FedAMS",
    "FedAvg",
    "FedDyn",
    "FedLAMA",
    "FedLAMB",
    "FedLDF",
    "FedLP",
    "FedLPA",
    "FedLUAR",
    "FedProx",
    "FedRep",
    "Federation",
    "FedlamaError",
    "FixedIntervals",
    "Float16",
    "Float32",
    "FunctionTask",
    "HuggingFace",
    "Interrupted",
    "LanguageModel",
    "Layer",
    "LayerMask",
    "LayerRates",
    "LayerRecord",
    "LayerStatistics",
    "Layers",
    "Ledger",
    "Link",
    "LocalSolver",
    "LocalWork",
    "MLflow",
    "Mean",
    "Median",
    "Metric",
    "MimeLAMB",
    "MissingExtraError",
    "MultiLabel",
    "NormBound",
    "OptimizerState",
    "PadCollate",
    "ParameterGroup",
    "PartialAveraging",
    "Personal",
    "Plan",
    "Pooled",
    "Population",
    "PowerOfChoice",
    "PowerSGD",
    "Privacy",
    "RandomAbsence",
    "RandomK",
    "Recorded",
    "Regression",
    "Replace",
    "ReplayedClients",
    "Result",
    "RoundCallback",
    "RoundRecord",
    "Run",
    "RunFolder",
    "RunOptions",
    "Sampler",
    "Scaffold",
    "Schedule",
    "Score",
    "Segmentation",
    "Senders",
    "ServerAdagrad",
    "ServerAdam",
    "ServerFedDyn",
    "ServerMomentum",
    "ServerNesterov",
    "ServerOptimizer",
    "ServerOptimizerState",
    "ServerYogi",
    "Sign",
    "Snapshot",
    "SolverOptions",
    "Spread",
    "Stacked",
    "StopRun",
    "StoredRun",
    "Strategy",
    "Study",
    "StudyPlan",
    "Sweep",
    "Task",
    "TensorBoard",
    "TensorClients",
    "TensorSpec",
    "TestSet",
    "TopK",
    "Trace",
    "TrimmedMean",
    "UniformSampler",
    "Verdict",
    "WeightedSampler",
    "WeightsAndBiases",
    "Workers",
    "along_clients",
    "by_mapping",
    "by_module",
    "by_tensor",
    "client_norms",
    "clock",
    "compare",
    "data",
    "find_runs",
    "forecast",
    "load_experiment",
    "load_run",
    "lora_layers",
    "models",
    "pad",
    "pooled",
    "register",
    "run",
    "run_study",
    "save_adapter",
    "save_snapshot",
    "server_value_of",
    "sweep",
    "tagged",
    "tensor_norms",
    "verify",
    "whole_snapshots",
    "write_report",
]

_HOMES = {
    "fedlama.analysis.forecast": "forecast",
    "fedlama.analysis.links": "Exchanges Link clock",
    "fedlama.analysis.study": "Study StudyPlan run_study",
    "fedlama.analysis.sweep": "Sweep",
    "fedlama.choices.aggregators": "Aggregator Combined ElementMean FedLPA Mean Median NormBound TrimmedMean",
    "fedlama.choices.availability": "Absence Always Availability Fate RandomAbsence Trace",
    "fedlama.choices.codecs": (
        "BFloat16 Chain Codec CodecContext CodecState CohortContext ContextCodec DifferenceCodec Differences "
        "Directions EightBitRows Float16 Float32 LBGM LayerMask PowerSGD QSGD RandomK Sign TopK"
    ),
    "fedlama.choices.personal": "Personal",
    "fedlama.choices.privacy": "Privacy",
    "fedlama.choices.samplers": "AllClients Population PowerOfChoice Sampler UniformSampler WeightedSampler",
    "fedlama.choices.server_optimizers": (
        "Replace ServerAdagrad ServerAdam ServerFedDyn ServerMomentum ServerNesterov ServerOptimizer "
        "ServerOptimizerState ServerYogi"
    ),
    "fedlama.choices.solvers": (
        "Adam AdamW Clipping Exchanged FedAMS FedDyn FedLAMB FedProx FedRep LayerRates LocalSolver MimeLAMB "
        "OptimizerState ParameterGroup SGD Scaffold Schedule SolverOptions along_clients client_norms "
        "server_value_of tensor_norms"
    ),
    "fedlama.choices.strategies": (
        "AdaComm Budget Courses Cyclic FedAvg FedLAMA FedLDF FedLP FedLUAR FixedIntervals PartialAveraging Pooled "
        "Strategy"
    ),
    "fedlama.choices.tasks": (
        "Binary Classification Cox FunctionTask HuggingFace LanguageModel Metric MultiLabel Regression "
        "Segmentation Task"
    ),
    "fedlama.core.adapters": "lora_layers",
    "fedlama.core.client_scores": "ClientScores Spread",
    "fedlama.core.layers": "Layer Layers TensorSpec by_mapping by_module by_tensor tagged",
    "fedlama.core.ledger": "Ledger",
    "fedlama.core.local_work": "LocalWork",
    "fedlama.core.plan": "LayerStatistics Plan Senders",
    "fedlama.core.records": "Best LayerRecord Result RoundRecord Score",
    "fedlama.core.registry": "register",
    "fedlama.core.trees": "pad",
    "fedlama.data": "",
    "fedlama.data.clients": "ClientData ClientSource ReplayedClients TensorClients",
    "fedlama.data.datasets": "DatasetClients",
    "fedlama.data.samples": "PadCollate",
    "fedlama.engines": "Auto Distributed Recorded Stacked Workers",
    "fedlama.errors": "ConfigError DataError DivergenceError FedlamaError MissingExtraError",
    "fedlama.experiment": "Experiment load_experiment",
    "fedlama.federation.callbacks": "Callback CallbackError RoundCallback StopRun",
    "fedlama.federation.federation": "Federation",
    "fedlama.federation.held_out": "TestSet",
    "fedlama.federation.pooled": "pooled",
    "fedlama.federation.run": "Run",
    "fedlama.federation.state": "Snapshot",
    "fedlama.federation.stopping": "EarlyStopping",
    "fedlama.models": "",
    "fedlama.models.adapters": "save_adapter",
    "fedlama.reporting.html": "write_report",
    "fedlama.reporting.sweeping": "sweep",
    "fedlama.reporting.tracking": "MLflow TensorBoard WeightsAndBiases",
    "fedlama.reporting.training": "compare run",
    "fedlama.runs.autosave": "Interrupted",
    "fedlama.runs.checkpoint": "save_snapshot whole_snapshots",
    "fedlama.runs.execute": "RunOptions",
    "fedlama.runs.folder": "RunFolder",
    "fedlama.runs.stored": "StoredRun find_runs load_run",
    "fedlama.runs.verify": "Verdict verify",
}
"""Where each exported name is defined: it is imported at its first use, since a command may need few of them."""

_find = imported_later(globals(), _HOMES)
_renamed = renamed_attributes(__name__, [Renamed("NoGuard", "Mean")], _find)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # takes time that `fedlama --help` need not spend

    try:
        return version("fedlama")
    except PackageNotFoundError:  # imported from a source tree that was never installed
        return "0+unknown"


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    return _find(name) if name in __all__ else _renamed(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
