"""What the training of image generators, VAE and GAN, is made of."""
