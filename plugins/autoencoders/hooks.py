"""The autoencoders, and the objective that trains them."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.autoencoders.causal_kl import CausalKl
    from mutoscope.plugins.autoencoders.dvae import Dvae, LogitLaplace
    from mutoscope.plugins.autoencoders.elbo import Elbo
    from mutoscope.plugins.autoencoders.fsq import Fsq
    from mutoscope.plugins.autoencoders.identity import Identity
    from mutoscope.plugins.autoencoders.kl import Kl
    from mutoscope.plugins.autoencoders.lfq import Lfq
    from mutoscope.plugins.autoencoders.palette import Palette
    from mutoscope.plugins.autoencoders.patch_discriminator import Patch
    from mutoscope.plugins.autoencoders.perceptual_adversarial import PerceptualAdversarial
    from mutoscope.plugins.autoencoders.prior import Prior, PriorObjective
    from mutoscope.plugins.autoencoders.reconstruction import ReconstructionObjective
    from mutoscope.plugins.autoencoders.vae import Vae
    from mutoscope.plugins.autoencoders.videogpt_vq import VideogptVq
    from mutoscope.plugins.autoencoders.vit_vqgan import VitVqgan
    from mutoscope.plugins.autoencoders.vq import Vq
    from mutoscope.plugins.autoencoders.vqgan import Vqgan

    pictures = [Kl, Vq, Vae, Elbo, Patch, PerceptualAdversarial, Prior, PriorObjective]
    tokens = [Fsq, Lfq, Palette, VideogptVq, Vqgan, VitVqgan, Dvae, LogitLaplace]
    return [*pictures, Identity, CausalKl, ReconstructionObjective, *tokens]
