"""VGG, the encoder and loss network, and where its weights come from."""
