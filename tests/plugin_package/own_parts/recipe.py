"""Focal: the whole network, trained with the focal loss (Lin et al. 2017)."""

from torch.nn import functional as F

from alhpo.training.recipes.network import NetworkRecipe


def focal_loss(model, inputs, labels, hp, compute):
    """Cross-entropy in which an image counts the less, the surer its label already is."""
    with compute.autocast():
        logits = model(inputs)
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    return ((1 - (-losses).exp()).square() * losses).mean()


class FocalRecipe(NetworkRecipe):
    """Makes trainings of one model on one set of labels."""

    settings = {"loss": "focal, gamma 2"}  # part of what a checkpoint is compared by

    def loss_at(self, progress):
        return focal_loss
