"""Inference: load a run, predict slices in either direction, write the images of new cases."""

from ivan.inference.common import (
    LeftOut,
    find,
    keep_images,
    output_suffix,
    progress_over,
    results_folder,
    set_threads,
    warn,
    write_each,
)
from ivan.inference.loading import load_predictor, load_run, predictor_of, read_scales
from ivan.inference.predictor import DEFAULT_PIXELS, Predictor
from ivan.inference.synthesis import synthesize, synthesize_case

__all__ = [
    "DEFAULT_PIXELS",
    "LeftOut",
    "Predictor",
    "find",
    "keep_images",
    "load_predictor",
    "load_run",
    "output_suffix",
    "predictor_of",
    "progress_over",
    "read_scales",
    "results_folder",
    "set_threads",
    "synthesize",
    "synthesize_case",
    "warn",
    "write_each",
]
