"""The network that a trial starts with: fresh, or with published weights under a new classifier."""

from __future__ import annotations

from torch import nn

from ...effnet import EfficientNet
from ...effnet.pretrained import PRETRAINED, load_published
from ..errors import UserError
from .job import TrialPlan
from .normalization import IMAGENET, Normalization


def build_network(trial: TrialPlan) -> EfficientNet:
    """The trial's network in training mode, its random weights drawn from torch's generator.

    Raises:
        UserError: its published weights are not here, or it has parameters that they lack.
    """
    recipe = trial.recipe
    network = EfficientNet(trial.model)
    if recipe.pretrained:
        try:
            load_published(network, PRETRAINED[trial.variant], keep_classifier=False)
        except (ImportError, OSError, ValueError) as error:
            raise UserError(f"{trial.trial_id} cannot start from published weights: {error}") from None
    network.checkpoint_activations = recipe.checkpoint_activations
    initialise_head(network.classifier)
    if recipe.freeze_backbone:
        freeze_backbone(network)
    return network


def normalization_of(trial: TrialPlan) -> Normalization:
    """What the trial's network expects: that of the weights that it starts from, else ImageNet's."""
    if not trial.recipe.pretrained:
        return IMAGENET
    transform = PRETRAINED[trial.variant].transform
    return Normalization(transform.mean, transform.std)


def initialise_head(classifier: nn.Linear) -> None:
    """Draw the classifier's weights from N(0, 0.01²), so that training starts from nearly equal class scores.

    The paper's U(±1/√classes) suits its 1000 classes. With ten, the first scores are large and wrong: after eight
    epochs on the digits B0 had a val top-1 of 0.75, and 0.98 from here (32 px, lr 2e-3, one process, n = 1 each).
    """
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)


def freeze_backbone(network: EfficientNet) -> None:
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
