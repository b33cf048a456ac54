"""The parts of video diffusion: Imagen Video, Video LDM and W.A.L.T."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.video_diffusion.continuous import Continuous
    from mutoscope.plugins.video_diffusion.decoder_only import DecoderOnly
    from mutoscope.plugins.video_diffusion.depth_to_space import DepthToSpace
    from mutoscope.plugins.video_diffusion.distil import Distil
    from mutoscope.plugins.video_diffusion.distilled import Distilled
    from mutoscope.plugins.video_diffusion.joint_images import JointImages
    from mutoscope.plugins.video_diffusion.masked_frames import MaskedFrames
    from mutoscope.plugins.video_diffusion.noisy_earlier import NoisyEarlier
    from mutoscope.plugins.video_diffusion.on_crops import OnCrops
    from mutoscope.plugins.video_diffusion.on_frames import OnFrames
    from mutoscope.plugins.video_diffusion.oscillating import Oscillating
    from mutoscope.plugins.video_diffusion.patch3d import Patch3d
    from mutoscope.plugins.video_diffusion.time_only import TimeOnly
    from mutoscope.plugins.video_diffusion.video_decoder import VideoDecoder
    from mutoscope.plugins.video_diffusion.video_ldm import VideoLdm
    from mutoscope.plugins.video_diffusion.video_ldm_upsampler import VideoLdmUpsampler
    from mutoscope.plugins.video_diffusion.video_unet import VideoUNet
    from mutoscope.plugins.video_diffusion.walt import Walt
    from mutoscope.plugins.video_diffusion.zero_snr import ZeroSnr

    denoisers = [Walt, VideoUNet, VideoLdm, VideoLdmUpsampler]
    objectives = [Continuous, ZeroSnr, JointImages, OnCrops, Distil, TimeOnly, OnFrames, DecoderOnly]
    conditioners = [NoisyEarlier, DepthToSpace, MaskedFrames]
    return [*denoisers, *objectives, *conditioners, Oscillating, Distilled, VideoDecoder, Patch3d]
