"""Learning to mend finished splats: what the network learns from, its training, and the question to the photos whether it helped."""
