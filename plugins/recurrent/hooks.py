"""The parts of recurrent generation."""

from __future__ import annotations

from mutoscope.core.component import Component
from mutoscope.core.plugin import hookimpl


@hookimpl
def mutoscope_components() -> list[type[Component]]:
    from mutoscope.plugins.recurrent.action_code import ActionCode
    from mutoscope.plugins.recurrent.conv_vae import ConvVae
    from mutoscope.plugins.recurrent.environment_simulator import EnvironmentSimulator
    from mutoscope.plugins.recurrent.lstm_composite import LstmComposite
    from mutoscope.plugins.recurrent.mixture import MixtureObjective
    from mutoscope.plugins.recurrent.opening import Opening
    from mutoscope.plugins.recurrent.rollout import Rollout
    from mutoscope.plugins.recurrent.sequence import Sequence
    from mutoscope.plugins.recurrent.world_model import WorldModel

    networks = [ConvVae, LstmComposite, EnvironmentSimulator, WorldModel]
    return [*networks, ActionCode, Opening, Sequence, MixtureObjective, Rollout]
