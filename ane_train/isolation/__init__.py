"""Work in processes of its own: a crash or a hang is a finding, and no finding is personal."""
