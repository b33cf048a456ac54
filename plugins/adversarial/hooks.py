"""The parts of adversarial generation."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.adversarial.adversarial import Adversarial
    from mutoscope.plugins.adversarial.at_once import AtOnce
    from mutoscope.plugins.adversarial.conv3d import Conv3d
    from mutoscope.plugins.adversarial.dvd_critics import DvdSpatial, DvdTemporal
    from mutoscope.plugins.adversarial.dvdgan import Dvdgan
    from mutoscope.plugins.adversarial.frame_pairs import FramePairs
    from mutoscope.plugins.adversarial.long_video import LongVideo
    from mutoscope.plugins.adversarial.longvideogan import Longvideogan
    from mutoscope.plugins.adversarial.longvideogan_upsampler import LongvideoganUpsampler
    from mutoscope.plugins.adversarial.mocogan import Mocogan
    from mutoscope.plugins.adversarial.one_step import OneStep
    from mutoscope.plugins.adversarial.patches import PatchFrames, PatchVideo
    from mutoscope.plugins.adversarial.vgan import Vgan, VganImage

    generators = [AtOnce, Vgan, VganImage, Mocogan, Dvdgan, Longvideogan, LongvideoganUpsampler]
    critics = [Conv3d, PatchFrames, PatchVideo, DvdSpatial, DvdTemporal, LongVideo, FramePairs]
    return [Adversarial, OneStep, *generators, *critics]
