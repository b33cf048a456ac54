"""The parts of video diffusion: Imagen Video, Video LDM and W.A.L.T."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.video_diffusion.depth_to_space import DepthToSpace
    from mutoscope.plugins.video_diffusion.joint_images import JointImages
    from mutoscope.plugins.video_diffusion.masked_frames import MaskedFrames
    from mutoscope.plugins.video_diffusion.noisy_earlier import NoisyEarlier
    from mutoscope.plugins.video_diffusion.walt import Walt
    from mutoscope.plugins.video_diffusion.zero_snr import ZeroSnr

    return [Walt, ZeroSnr, JointImages, DepthToSpace, NoisyEarlier, MaskedFrames]
