"""A conditional score model in the style of NCSN++ (Song et al., ICLR 2021), small, on diffusers' building
blocks.

The target is diffused by a variance-exploding process; the network sees it beside the sources and predicts
the noise. A sample is drawn with the predictor-corrector steps of diffusers' `ScoreSdeVeScheduler`. Its
NCSN++ blocks are made for three channels, so 1x1 convolutions lead from the modalities to three and back.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ivan.errors import InputError
from quality_lib.methods import Method, _padded

SIGMA_MIN, SIGMA_MAX = 0.01, 10.0
WIDTHS = (32, 64)
SAMPLE_STEPS = 60


class ScoreModel(Method):
    """Sources to targets by sampling; no reverse direction (that would be a second model).

    Loss: denoising score matching, ``|sigma score(y + sigma z) + z|^2`` with sigma log-uniform in [0.01, 10].
    """

    rate = 2e-4

    def __init__(self, sources: int, targets: int) -> None:
        super().__init__()
        try:
            from diffusers import UNet2DModel
        except ImportError:
            raise InputError(
                "diffusers: absent, but the score model needs it; install it with: pip install "
                '"ivan_fast[baselines]"'
            ) from None
        self.enter = nn.Conv2d(sources + targets, 3, 1)
        self.leave = nn.Conv2d(3, targets, 1)
        self.net = UNet2DModel(
            in_channels=3,
            out_channels=3,
            down_block_types=("SkipDownBlock2D",) * len(WIDTHS),
            up_block_types=("SkipUpBlock2D",) * len(WIDTHS),
            block_out_channels=WIDTHS,
            layers_per_block=1,
            time_embedding_type="fourier",
            act_fn="silu",
            center_input_sample=False,
            mid_block_scale_factor=math.sqrt(2),
            norm_eps=1e-6,
            attention_head_dim=None,
        )
        self.targets = targets
        self.steps = SAMPLE_STEPS

    def score(self, noisy: Tensor, source: Tensor, sigma: Tensor) -> Tensor:
        """Gradient of the log density of `noisy` [B, M, H, W] at noise level sigma [B]."""
        scale = sigma[:, None, None, None]
        # Brought to about unit variance: the network need not learn the range of sigma.
        x = torch.cat([noisy / (1 + scale.square()).sqrt(), source], 1)

        def compute(both: Tensor) -> Tensor:
            return self.leave(self.net(self.enter(both), sigma).sample)

        noise: Tensor = _padded(compute, x, 2 ** len(WIDTHS))
        return noise / scale

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        source, y = batch.get("source_input", batch["source"]), batch["target"]
        share = torch.rand(y.shape[0], device=y.device)
        sigma = SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** share
        scale = sigma[:, None, None, None]
        z = torch.randn_like(y)
        return (scale * self.score(y + scale * z, source, sigma) + z).square().mean()

    @torch.no_grad()
    def forward_predict(self, source: Tensor) -> Tensor:
        """One sample; the noise depends on the shape alone, so the same batch gives the same images."""
        from diffusers import ScoreSdeVeScheduler

        steps = ScoreSdeVeScheduler(
            num_train_timesteps=self.steps, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, correct_steps=1
        )
        steps.set_timesteps(self.steps)
        steps.set_sigmas(self.steps)
        generator = torch.Generator().manual_seed(0)
        shape = (source.shape[0], self.targets, *source.shape[2:])
        sample = torch.randn(shape, generator=generator).to(source) * SIGMA_MAX
        for index, time in enumerate(steps.timesteps):
            sigma = steps.sigmas[index].to(source).expand(source.shape[0])
            sample = steps.step_correct(
                self.score(sample, source, sigma), sample, generator=generator
            ).prev_sample
            step = steps.step_pred(self.score(sample, source, sigma), time, sample, generator=generator)
            sample = step.prev_sample
        return step.prev_sample_mean
