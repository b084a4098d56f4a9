"""Focal: the whole network, trained with the focal loss (Lin et al. 2017)."""

from torch.nn import functional as F

from alhpo.training.recipes.network import NetworkRecipe, NetworkTraining


class FocalTraining(NetworkTraining):
    """One training; an image counts the less, the surer its label already is."""

    @staticmethod
    def loss_function(model, inputs, labels, hp, compute, progress):
        with compute.autocast():
            logits = model(inputs)
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        return ((1 - (-losses).exp()).square() * losses).mean()


class FocalRecipe(NetworkRecipe):
    """Makes trainings of one model on one set of labels."""

    training = FocalTraining
    settings = {"loss": "focal, gamma 2"}  # part of what a checkpoint is compared by
