"""What a chip can do: programs that are first proved right on the engine at hand, then timed."""
