"""What is kept on the disk: tensor files, checkpoints, and the folder of a run."""
