"""What a training step takes on a given chip, by arithmetic: a cost model of the Neural Engine."""
