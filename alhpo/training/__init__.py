"""One training: epochs, evaluation, checkpoints, the resumable objective, the fit on all labels."""
