"""Find features: stream activations, train autoencoders, gather concept statistics, score features."""
