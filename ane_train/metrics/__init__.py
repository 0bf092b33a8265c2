"""What a run reports: typed events, and the files and trackers that listen to them."""
