"""The calibrated encoder and the text encoder in torch: what is traced."""
