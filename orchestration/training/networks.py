"""The network that a trial starts with: fresh, or with the weights of another training."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from ...effnet import load_weights, make_network
from ...effnet.pretrained import PRETRAINED, WeightsInfo, load_published
from ...effnet.weights import fits_classifier, guess_source
from ..errors import UserError
from .checkpoint import read_start
from .job import TrialPlan
from .model_facts import ModelFacts
from .normalization import Inputs, Normalization

if TYPE_CHECKING:
    from ...effnet.networks import Network

_log = logging.getLogger(__name__)


def build_network(trial: TrialPlan, trained: Inputs | None = None) -> tuple[Network, Inputs]:
    """The trial's network in training mode, and what it wants of its images. Torch's generator gives what is random.

    Args:
        trial: what to train.
        trained: what the checkpoint says of images whose weights will replace these, so that none need be read.

    Raises:
        UserError: the weights that it starts from are not here, or do not fit.
    """
    recipe = trial.recipe
    network, start = make_network(trial.model, checkpoint_activations=recipe.checkpoint_activations), _Start()
    try:
        if trained is not None:
            start = _Start(trained)
        elif recipe.pretrained:
            start = _from_published(network, PRETRAINED[trial.variant])
        elif recipe.weights:
            start = _from_file(network, recipe.weights)
    except (ImportError, OSError, ValueError, UserError) as error:
        raise UserError(f"{trial.trial_id} cannot start from these weights: {error}") from None
    if not start.has_classifier:
        initialise_head(network.classifier)
    if recipe.freeze_backbone:
        freeze_backbone(network)
    return network, start.inputs


class _Start(NamedTuple):
    """What weights want of their images, and whether their classifier is kept."""

    inputs: Inputs = Inputs()
    has_classifier: bool = False


def _from_published(network: Network, info: WeightsInfo) -> _Start:
    load_published(network, info, keep_classifier=False)
    its = info.transform
    return _Start(Inputs(Normalization(its.mean, its.std), its.interpolation))


def _from_file(network: Network, place: str) -> _Start:
    """Start from a checkpoint of ours, or from a file with a state dict by whatever library's names."""
    state, facts = read_start(place)
    source = guess_source(state, network.config)
    kept = fits_classifier(network, state, source)
    load_weights(network, state, source, keep_classifier=kept)
    classes = network.config.num_classes
    head = f"its classifier of {classes} classes" if kept else f"a new classifier of {classes} classes"
    _log.info("started from %s, named as %s names them, with %s", place, source, head)
    return _Start(ModelFacts.from_dict(facts).inputs if facts else Inputs(), kept)


def initialise_head(classifier: nn.Linear | nn.Conv2d) -> None:
    """Draw the classifier's weights from N(0, 0.01²), so that training starts from nearly equal class scores.

    The paper's U(±1/√classes) suits its 1000 classes. With ten, the first scores are large and wrong: after eight
    epochs on the digits B0 had a val top-1 of 0.75, and 0.98 from here (32 px, lr 2e-3, one process, n = 1 each).
    """
    nn.init.normal_(classifier.weight, std=0.01)
    if classifier.bias is not None:
        nn.init.zeros_(classifier.bias)


def freeze_backbone(network: Network) -> None:
    """Train the classifier alone: no other parameter gets gradients."""
    network.requires_grad_(False)
    network.classifier.requires_grad_(True)


def set_training_mode(network: nn.Module) -> None:
    """Training mode, except for parts that are frozen as a whole.

    Those keep their BatchNorm statistics and drop nothing: they compute what they did with their published weights.
    """
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
