"""The parts of diffusion and flow."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.diffusion.ancestral import Ancestral
    from mutoscope.plugins.diffusion.binomial import Binomial
    from mutoscope.plugins.diffusion.classifier_guided import ClassifierGuided
    from mutoscope.plugins.diffusion.classify_noisy import ClassifyNoisy
    from mutoscope.plugins.diffusion.ddim import Ddim
    from mutoscope.plugins.diffusion.ddpm import Ddpm
    from mutoscope.plugins.diffusion.dit import Dit
    from mutoscope.plugins.diffusion.dpm_solver_pp import DpmSolverPp
    from mutoscope.plugins.diffusion.edm import Edm
    from mutoscope.plugins.diffusion.edm_sampler import EdmSampler
    from mutoscope.plugins.diffusion.euler import Euler
    from mutoscope.plugins.diffusion.flow import Flow
    from mutoscope.plugins.diffusion.heun import Heun
    from mutoscope.plugins.diffusion.improved_ddpm import ImprovedDdpm
    from mutoscope.plugins.diffusion.repaint import Repaint
    from mutoscope.plugins.diffusion.sdedit import Sdedit
    from mutoscope.plugins.diffusion.unet3d import UNet3d
    from mutoscope.plugins.diffusion.unets.adm import Adm
    from mutoscope.plugins.diffusion.unets.adm_classifier import AdmClassifier
    from mutoscope.plugins.diffusion.unets.ddpm_unet import DdpmUNet
    from mutoscope.plugins.diffusion.unets.ddpmpp import DdpmPlusPlus
    from mutoscope.plugins.diffusion.unets.glide import Glide
    from mutoscope.plugins.diffusion.unets.ldm_unet import LdmUNet
    from mutoscope.plugins.diffusion.unets.multiscale import Multiscale
    from mutoscope.plugins.diffusion.unets.ncsnpp import NcsnPlusPlus
    from mutoscope.plugins.diffusion.unets.unclip_upsampler import UnclipUpsampler
    from mutoscope.plugins.diffusion.variational import Variational

    image = [DdpmUNet, Adm, Glide, UnclipUpsampler, LdmUNet, DdpmPlusPlus, NcsnPlusPlus, Multiscale, AdmClassifier]
    objectives = [ImprovedDdpm, Edm, Variational, ClassifyNoisy]
    samplers = [EdmSampler, DpmSolverPp, Sdedit, Repaint, ClassifierGuided, Binomial]
    return [*image, *objectives, *samplers, Dit, UNet3d, Flow, Ddpm, Euler, Heun, Ancestral, Ddim]
