"""Metrics of synthesis and fusion: one definition each, named variants, and a protocol beside every number.

Argument order: (reference, prediction) for synthesis, (a, b, fused) for fusion. Arrays are NumPy or PyTorch
(any device); an image ``[H, W]`` or a volume gives one `Metric`, a batch ``[N, C, H, W]`` values ``[N, C]``,
(`ivan.metrics.arrays` has the whole rule). `docs/metrics.md` explains the definitions and the usual traps.
"""

from ivan.metrics.arrays import Metric, MetricArray, protocols
from ivan.metrics.fused import fusion_metrics
from ivan.metrics.fusion import q_0, q_abf, q_piella, q_w
from ivan.metrics.information import entropy, mutual_information, q_mi
from ivan.metrics.pixelwise import nmse, psnr, ssim
from ivan.metrics.ranking import uncertainty_ranking
from ivan.metrics.regions import lesion_contrast, region_metrics
from ivan.metrics.sharpness import average_gradient, spatial_frequency
from ivan.metrics.slices import SliceStatistics, over_slices
from ivan.metrics.through_plane import through_plane
from ivan.metrics.volume import foreground_mask, sharpness_ratios, synthesis_metrics

__all__ = [
    "Metric",
    "MetricArray",
    "SliceStatistics",
    "average_gradient",
    "entropy",
    "foreground_mask",
    "fusion_metrics",
    "lesion_contrast",
    "mutual_information",
    "nmse",
    "over_slices",
    "protocols",
    "psnr",
    "q_0",
    "q_abf",
    "q_mi",
    "q_piella",
    "q_w",
    "region_metrics",
    "sharpness_ratios",
    "spatial_frequency",
    "ssim",
    "synthesis_metrics",
    "through_plane",
    "uncertainty_ranking",
]
