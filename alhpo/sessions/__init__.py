"""People in the loop: photos become a labelled set and a model, by files that people fill in."""
