"""The `classifier_guided` sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, final

import torch
from torch import Tensor

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.errors import InputError
from mutoscope.core.facts import Additive, ClassifierFact, ConditioningFact, LatentFact, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import NonNegative, Share, Steps
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.diffusion.ancestral import Variance, ancestral_step, step_variance
from mutoscope.plugins.diffusion.ddim import ddim_step
from mutoscope.plugins.diffusion.stepping import Interval, LevelSampler, Walk


@final
class ClassifierGuided(LevelSampler):
    """The gradient of a noisy classifier leads the sample to its class. Dhariwal & Nichol 2021, alg. 1 and 2.

    `ancestral`: the mean of each step moves by scale x variance x gradient, the gradient taken at the noisy clip as
    released code has it; `ddim`: the noise moves by -s x scale x gradient. The classifier is the recipe's tower, the
    class the id that a conditioner gives. It looks at pixels: tokens are single cells of uncoded video.

    scale: of the gradient; 0 is no guidance. steps: network calls per clip, each with one of the classifier beside it.
    variance, clip_clean: as in `ancestral`. eta: as in `ddim`. guidance, guidance_interval: classifier-free guidance.
    """

    name = "classifier_guided"
    paper = "Dhariwal & Nichol 2021, arXiv:2105.05233"

    def __init__(
        self,
        tokens: TokenFact,
        process: Annotated[LevelProcess, Additive],
        given: ConditioningFact,
        classifier: ClassifierFact | None,
        latents: LatentFact,
        *,
        scale: NonNegative = 1.0,
        method: Literal["ancestral", "ddim"] = "ancestral",
        steps: Steps = 250,
        variance: Variance = "small",
        clip_clean: NonNegative = 0.0,
        eta: Share = 0.0,
        guidance: NonNegative = 1.0,
        guidance_interval: Interval = (0.0, 1.0),
    ) -> None:
        super().__init__(tokens, process, steps, guidance, guidance_interval)
        if classifier is None:
            raise ValueError("needs a tower that classifies noisy clips; would fit: tower: adm_classifier")
        if latents.pixels is None or tokens.packed or tokens.patch != (1, 1, 1) or tokens.width != classifier.channels:
            raise ValueError(
                "the classifier looks at pixels; would fit: autoencoder: identity with patchifier: {type: spacetime, "
                f"size: [1, 1, 1]}}; got tokens of {tokens.width} values"
            )
        if given.vocabulary != classifier.classes:
            raise ValueError(
                f"the classifier knows {classifier.classes} classes and needs their ids: conditioner: one_hot"
            )
        self.seen, self.scale, self.method, self.eta = classifier, scale, method, eta
        self.variance: Variance = variance
        self.clip_clean = clip_clean

    def sample(self, denoiser: LevelDenoiser, canvas: Tokens, conditioning: Conditioning, draw: Draw) -> Tokens:
        if conditioning.prompt_ids is None:
            raise InputError(field="sampler", problem="classifier_guided needs the id of a class per clip")
        return super().sample(denoiser, canvas, conditioning, draw)

    def step(self, walk: Walk, x: Tensor, i: int) -> Tensor:
        now, then = walk.coefficients(i), walk.coefficients(i + 1)
        said, last = walk.predict(x, i), i + 1 == self.steps
        leads = self.scale > 0 and now[0] > 0
        if self.method == "ancestral":
            z = None if last else walk.fresh(i)
            made = ancestral_step(said, now, then, self.variance, self.clip_clean, z)
            if not leads:
                return made
            return made + self.scale * step_variance(said, now, then, self.variance) * self.gradient(walk, x, i)
        if leads:
            eps = said.as_noise() - now[1] * self.scale * self.gradient(walk, x, i)
            said = replace(said, field=eps, kind="noise")
        return ddim_step(said, now, then, self.eta, None if last or self.eta == 0.0 else walk.fresh(i))

    def gradient(self, walk: Walk, x: Tensor, i: int) -> Tensor:
        """Gradient of log p(class | x) at values x and times[i], B N D."""
        level = torch.full((len(walk.canvas),), walk.times[i], dtype=torch.float32, device=x.device)
        ids = walk.guided.told.prompt_ids
        assert ids is not None
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            video = walk.canvas.with_values(at).as_grid()
            logits = self.seen.classifier.features(video, self.process.coordinate(level)).logits
            chosen = logits.float().log_softmax(dim=1).gather(1, ids[:, :1])
            return torch.autograd.grad(chosen.sum(), at)[0]
