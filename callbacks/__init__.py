"""What watches a run: Lightning callbacks, each usable with a plain Trainer."""

from callbacks.answers import GeneratedAnswers
from callbacks.batch_digests import BatchDigests
from callbacks.catch_up import CatchUpValidation
from callbacks.checkpoint import StepCheckpoint, find_last_checkpoint
from callbacks.faults import FaultCallback
from callbacks.generation_evaluation import GenerationEvaluation
from callbacks.generation_samples import GenerationSamples
from callbacks.graceful_stop import GracefulStop
from callbacks.gradient_check import GradientCheck
from callbacks.in_context import InContextEvaluation
from callbacks.ledger_writer import DataLedger
from callbacks.loss_spikes import LossSpikes
from callbacks.nonfinite_guard import NonFiniteGuard
from callbacks.progress import ProgressBar, ProgressLines, progress
from callbacks.rehearsal import Rehearsal
from callbacks.report import Report, write_report
from callbacks.status_file import StatusFile
from callbacks.stuck_watch import StuckWatch
from callbacks.throughput import Throughput
from callbacks.what_trains import WhatTrains

__all__ = [
    "BatchDigests",
    "CatchUpValidation",
    "DataLedger",
    "FaultCallback",
    "GeneratedAnswers",
    "GenerationEvaluation",
    "GenerationSamples",
    "GracefulStop",
    "GradientCheck",
    "InContextEvaluation",
    "LossSpikes",
    "NonFiniteGuard",
    "ProgressBar",
    "ProgressLines",
    "Rehearsal",
    "Report",
    "StatusFile",
    "StepCheckpoint",
    "StuckWatch",
    "Throughput",
    "WhatTrains",
    "find_last_checkpoint",
    "progress",
    "write_report",
]
